/* Files that keystep label is told of: none is written in the place of
 * another, and another judge's ranking is checked before the model runs. */
#ifdef KS_PROGRAM
#include "label_few.h"

TestSuite(label_files, .init = make_few, .fini = drop_folder);

/* ------------------------------------------------------------ the same file */

static void copy_inputs(void) {
    run("cp " DATA "problems.jsonl p; cp few c; "
        "echo '{}' > r; cp p p0; cp c c0; ln -s c sym; ln c hard; mkdir d;"
        " ln -s . here; ln -s there nowhere",
        0);
}

Test(label_files, none_is_written_in_anothers_place) {
    static const struct {
        const char *options, *words;
    } bad[] = {
        {"--out x --clean x", "--out and --clean name the same file: x"},
        {"--out x --clean ./x", "--out and --clean"},
        {"--out x --clean d/../x", "--out and --clean"},
        {"--out x --clean here/x", "--out and --clean"},
        {"--out x --clean k --prefixes x", "--out and --prefixes"},
        {"--out x --clean k --prefixes here/k", "--clean and --prefixes"},
        {"--out x --clean k --skipped here/k", "--clean and --skipped"},
        {"--out - --clean -", "--out and --clean both want standard output"},
        {"--out c --clean k", "--out would overwrite what --chains names"},
        {"--out ./c --clean k", "--out would overwrite what --chains names"},
        {"--out sym --clean k", "--out would overwrite what --chains names"},
        {"--out hard --clean k", "--out would overwrite what --chains names"},
        {"--out x --clean c", "--clean would overwrite what --chains names"},
        {"--out x --clean p", "--clean would overwrite what --problems names"},
        {"--out x --clean k --prefixes here/p",
         "--prefixes would overwrite what --problems names"},
        {"--out r --clean k --method external --ranking r",
         "--out would overwrite what --ranking names"},
        {"--out x --clean x.part", "by way of x.part, which --clean names"},
        {"--out k.new --clean k", "by way of k.new, which --out names"},
    };
    char line[1024];
    copy_inputs();
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        snprintf(line, sizeof line, LABEL " --problems p --chains c --force %s",
                 bad[i].options);
        run(line, 2);
        expect_said(bad[i].words);
    }
    cr_expect(same_files("p", "p0") && same_files("c", "c0"));
    run("cp c x.part; " LABEL " --problems p --chains x.part --out x --clean k"
        " --force; test $? = 2 && cmp x.part c",
        0);
    run(LABEL " --problems p --chains c --out x --clean - --json", 2);
    expect_said("both want standard output");
    /* names that are like, and no file twice */
    run(LABEL " --problems p --chains c --out d/x --clean x", 0);
    run(LABEL " --problems p --chains - --out - --clean k2 < c | cmp - d/x", 0);
}

Test(label_files, other_commands_keep_inputs_too) {
#define GENERATE " generate --model " MODEL " --quiet --force --max-new 4"
    static const struct {
        const char *command, *words;
    } bad[] = {
        {GENERATE " --problems p --out ./p", "what --problems names"},
        {GENERATE " --problems p.part --out p", "by way of p.part"},
        {" split --chains c --out here/c --force", "what --chains names"},
        {" import g --out g --force", "--out would overwrite what FILE names"},
        {" import g --out x --problems-out ./g --force", "what FILE names"},
        {" import g --out x --problems-out x --force", "the same file"},
        {" import g --problems-out -", "both want standard output"},
        {" import g --problems p --out p --force", "what --problems names"},
        {" capture --model " MODEL " --chains j.journal --out j",
         "by way of j.journal"},
        {" capture --model " MODEL " --chains c --out c --force",
         "what --chains names"},
    };
    char line[1024];
    copy_inputs();
    run("cp p p.part; cp c j.journal; printf '{\"question\":\"Two and "
        "two?\",\"answer\":\"Four."
        "\\\\n#### 4\"}\\n' > g; cp g g0",
        0);
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        snprintf(line, sizeof line, KS_PROGRAM "%s", bad[i].command);
        run(line, 2);
        expect_said(bad[i].words);
    }
    cr_expect(same_files("p", "p0") && same_files("c", "c0") &&
              same_files("g", "g0") && same_files("p.part", "p0"));
    run(KS_PROGRAM " import g --out x --problems-out y --quiet", 0);
    run(KS_PROGRAM " split --chains x --out z --quiet", 0);
}

/* ------------------------------------------------------------------ skipped */

/* A chain is labelled, or --skipped has it with the reason of the summary. */
Test(label_files, chains_without_labels_have_a_reason) {
    run(LABEL FEW " --orders 1 --out l --clean k --skipped s --json >sums", 0);
    json_t *labels = by_chain("l"), *skipped = by_chain("s"), *line;
    json_t *sums = json_load_file("sums", 0, NULL);
    const char *id;
    cr_assert(sums);
    cr_expect_eq(json_object_size(labels), 2);
    cr_expect_eq(json_object_size(skipped), 2);
    json_object_foreach(skipped, id, line) {
        const char *why = json_string_value(json_object_get(line, "why"));
        cr_assert(why && !json_object_get(labels, id), "%s", id);
        json_t *all = json_object_get(json_object_get(sums, "skipped"), why);
        bool told = false;
        for (size_t i = 0; i < json_array_size(all); i++)
            told |= !strcmp(json_string_value(json_array_get(all, i)), id);
        cr_expect(told, "%s: %s", id, why);
    }
    json_decref(labels);
    json_decref(skipped);
    json_decref(sums);
    /* a whole run is whole with it alone */
    run(LABEL FEW " --orders 1 --out l --clean k --skipped s --resume", 0);
    run("rm s", 0);
    run(LABEL FEW " --orders 1 --out l --clean k --skipped s --resume", 1);
    expect_said("l is whole, but s is not there");
}

/* ----------------------------------------------------------------- rankings */

#define EXTERNAL LABEL FEW " --method external --ranking r --out a --clean ka"

/* One that ranks every labelled chain's steps from the last. */
static json_t *make_ranking(void) {
    run(LABEL FEW " --out l --clean k --prefixes x --orders 0", 0);
    json_t *prefixes = by_chain("x"), *lines = json_object(), *line;
    const char *id;
    json_object_foreach(prefixes, id, line) {
        size_t q = json_array_size(json_object_get(line, "steps"));
        json_t *order = json_array();
        for (size_t i = q; i-- > 0;)
            json_array_append_new(order, json_integer((json_int_t)i));
        json_object_set_new(
            lines, id, json_pack("{s:s,s:o}", "chain", id, "order", order));
    }
    json_decref(prefixes);
    return lines;
}

static void write_ranking(json_t *lines, const char *skipped) {
    const char *id;
    json_t *line;
    ks_str all = {0};
    cr_assert_eq(ks_str_add(&all, "", 0, NULL), KS_OK);
    json_object_foreach(lines, id, line) if (strcmp(id, skipped) != 0)
        cr_assert_eq(ks_jsonl_add(&all, line, NULL), KS_OK);
    write_text("r", all.data);
    ks_str_free(&all);
}

/* What can be told without the model is told before a journal is made. */
Test(label_files, rankings_are_checked_at_open) {
#define RANK(more) "{\"chain\":\"a0000/0\"," more "}\n"
#define START(what) RANK("\"order\":[1,0],\"start\":" what)
    static const struct {
        const char *lines, *words;
    } bad[] = {
        {START("[true,1]"), "place 0 of \"start\" is a boolean"},
        {START("[1,\"1\"]"), "place 1 of \"start\" is a string"},
        {START("[1,null]"), "place 1 of \"start\" is null"},
        {START("[1.0,1]"), "place 0 of \"start\" is a real number"},
        {START("[1,5]"), "place 1 of \"start\" is 5, expected 0 or 1"},
        {START("[-1,1]"), "place 0 of \"start\" is -1"},
        {START("{}"), "\"start\" is an object, expected a list"},
        {START("\"11\""), "\"start\" is a string, expected a list"},
        {START("null"), "\"start\" is null, expected a list"},
        {START("[1]"), "\"start\" has 1 places, expected 2"},
        {RANK("\"order\":\"abc\""), "\"order\" is a string, expected a list"},
        {RANK("\"order\":{}"), "\"order\" is an object"},
        {RANK("\"steps\":[0]"), "\"order\" is nothing"},
        {RANK("\"order\":[0,\"1\"]"), "place 1 of \"order\" is a string"},
        {RANK("\"order\":[0,2]"), "place 1 of \"order\" is 2, expected each"},
        {RANK("\"order\":[0,-1]"), "place 1 of \"order\" is -1"},
        {RANK("\"order\":[0,1,0]"), "place 2 of \"order\" is 0"},
        {RANK("\"order\":[0]") RANK("\"order\":[0]"),
         "r line 2: chain a0000/0 has a line already, line 1"},
        {"{\"chain\":\"zz\",\"order\":[0]}\n", "r line 1: chain zz is not in"},
        {"{\"order\":[0]}\n", "r line 1: no \"chain\""},
        {"{\"chain\":3,\"order\":[0]}\n", "r line 1: \"chain\" is an integer"},
    };
    for (size_t i = 0; i < KS_COUNT(bad); i++) {
        write_text("r", bad[i].lines);
        run(EXTERNAL, 1);
        expect_said("r line ");
        expect_said(bad[i].words);
        cr_expect(access("a.part", F_OK) != 0);
    }
}

/* What only the model can tell is told at the chain's turn; who mends the file
 * goes on from there, to the same labels. */
Test(label_files, a_ranking_that_lacks_a_chain_is_mended) {
    json_t *lines = make_ranking();
    char last[64] = "", hash[65];
    const char *id;
    json_t *line;
    json_object_foreach(lines, id, line) snprintf(last, sizeof last, "%s", id);
    write_ranking(lines, "");
    run(LABEL FEW " --method external --ranking r --out b --clean kb", 0);
    write_ranking(lines, last);
    run(EXTERNAL, 1);
    snprintf(hash, sizeof hash, "r has no line for chain %.40s", last);
    expect_said(hash);
    expect_said("a.part keeps what was answered, --resume goes on from there");
    json_t *order = json_object_get(json_object_get(lines, last), "order");
    json_array_append_new(order,
                          json_integer((json_int_t)json_array_size(order)));
    write_ranking(lines, "");
    run(EXTERNAL " --resume", 1);
    snprintf(hash, sizeof hash, "chain %.40s: \"order\" has ", last);
    expect_said(hash);
    expect_said(" steps, expected the ");
    json_array_remove(order, json_array_size(order) - 1);
    write_ranking(lines, "");
    run(EXTERNAL " --resume", 0);
    cr_expect(same_files("a", "b") && same_files("ka", "kb"));
    run("sha256sum < r | cut -c1-64 | tr -d '\\n'", 0);
    memcpy(hash, text, 65);
    run("head -n 1 a", 0);
    expect_said(hash);
    /* whole, and of this ranking */
    run(EXTERNAL " --resume", 0);
    run("sed -i 's/\\[/[ /' r", 0);
    run(EXTERNAL " --resume", 1);
    expect_said("ranking_sha256 is");
    run("cat r | " LABEL FEW
        " --method external --ranking /dev/stdin --out c --clean kc",
        0);
    cr_expect(same_files("kc", "ka"));
    json_decref(lines);
}

/* A set to start from is where removal starts. */
Test(label_files, starts_where_it_is_told) {
    json_t *lines = make_ranking(), *line;
    const char *id;
    json_object_foreach(lines, id, line) {
        size_t q = json_array_size(json_object_get(line, "order"));
        json_t *start = json_array();
        for (size_t i = 0; i < q; i++)
            json_array_append_new(start, json_integer(i > 0));
        json_object_set_new(line, "start", start);
    }
    write_ranking(lines, "");
    run(EXTERNAL, 0);
    json_t *labels = by_chain("a");
    size_t fewer = 0;
    json_object_foreach(labels, id, line) {
        json_int_t q = json_integer_value(json_object_get(line, "searched"));
        json_int_t n = json_integer_value(json_object_get(line, "selected"));
        cr_expect(n == q || n == q - 1, "%s: %lld of %lld", id, (long long)n,
                  (long long)q);
        fewer += n == q - 1;
    }
    cr_expect_gt(fewer, 0);
    json_decref(labels);
    json_decref(lines);
}

#endif
