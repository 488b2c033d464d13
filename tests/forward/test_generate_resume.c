/* keystep generate --resume: what it takes over, refuses and starts afresh. */
#include "generate_shell.h"

#ifdef KS_PROGRAM

TestSuite(generate_resume, .init = make_folder, .fini = drop_folder);

Test(generate_resume, takes_over_what_is_there) {
    write_problems();
    char command[512];
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0);
    /* Three chains, out of order, and a line that a kill cut. */
    snprintf(command, sizeof command,
             "cd '%s' && { sed -n 5p a.jsonl; sed -n 1,2p a.jsonl; "
             "sed -n 4p a.jsonl | head -c 40; } > b.jsonl.part",
             folder);
    cr_assert_eq(system(command), 0);
    cr_expect_eq(keystep(out, sizeof out, GENERATE "--out b.jsonl"), 1);
    cr_expect(strstr(out, "--resume"), "%s", out);
    cr_expect_eq(
        keystep(out, sizeof out, GENERATE "--top-k 5 --out b.jsonl --resume"),
        1);
    cr_expect(strstr(out, "other settings"), "%s", out);
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out b.jsonl --resume"), 0,
                 "%s", out);
    snprintf(command, sizeof command,
             "cd '%s' && cmp a.jsonl b.jsonl && ! test -e b.jsonl.part",
             folder);
    cr_expect_eq(system(command), 0, "the files differ");
}

#define RESUME GENERATE "--out b.jsonl --resume "
#define PART "sed -n 3,5p a.jsonl > b.jsonl.part"

/* What this run would not have made itself is not taken over: by name. */
Test(generate_resume, refuses_what_differs) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0);
    shell(PART);
    static const struct {
        const char *edit, *args, *words;
    } cases[] = {
        {"true", "--seed 4",
         "b.jsonl.part line 1 was sampled with other settings: \"seed\" is 3 "
         "there, 4 here; --force starts afresh"},
        {"true", "--instruction 'Think.'",
         "\"instruction\" is \"\" there, \"Think.\" here"},
        {"sed -i 's/\"Ben has 3/\"Ben has 4/; s/Ben has 3/Bea has 3/' "
         "problems.jsonl",
         "", "line 1 answers another prompt: '"},
        {"sed -i 's/\"answer\":\"4\"/\"answer\":\"5\"/' problems.jsonl", "",
         "line 3 was judged by another answer: '4' there, '5' here"},
        {"sed -i 's/,\"answer\":\"3\"//' problems.jsonl", "",
         "line 1 was judged by another answer: '3' there, '(none)' here"},
        {"sed -i '1s/\"p1\\/0\"/\"p1\\/ +0\"/' b.jsonl.part", "",
         "line 1: sample ' +0' of 0 to 1"},
        {"sed -i '1s/\"p1\\/0\"/\"p1\\/00\"/' b.jsonl.part", "",
         "line 1: sample '00' of 0 to 1"},
        {"sed -i '2s/\"text\":/\"txet\":/' b.jsonl.part", "",
         "line 2: no \"text\""},
        {"sed -i '3s/\"isa\":\"[^\"]*\"/\"isa\":\"other\"/' b.jsonl.part", "",
         "line 3 was sampled with other settings: \"isa\" is \"other\" "},
        {"sed -i 's/\"program_version\":\"/&9/' b.jsonl.part", "",
         "here; --force continues all the same"},
        {"sed -i 's/\"sampling\":{/&\"new\":1,/' b.jsonl.part", "",
         "\"new\" is 1 there, absent here"},
    };
    for (size_t i = 0; i < KS_COUNT(cases); i++) {
        char args[256];
        write_problems();
        shell(PART);
        shell(cases[i].edit);
        snprintf(args, sizeof args, RESUME "%s", cases[i].args);
        expect_said(args, 1, cases[i].words);
    }
    cr_expect(strstr(out, "b.jsonl.part line 1"), "%s", out);
}

/* --force lets another machine's chains through, and starts afresh where what
 * is asked differs. */
Test(generate_resume, with_force) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out a.jsonl"), 0);
    shell(PART);
    shell("sed -i 's/\"isa\":\"[^\"]*\"/\"isa\":\"other\"/' b.jsonl.part");
    expect_said(RESUME "--force", 0, "6 chains");
    shell("test $(grep -c '\"isa\":\"other\"' b.jsonl) = 3");
    shell("rm b.jsonl; " PART);
    expect_said(RESUME "--force --top-k 5", 0, "starts afresh");
    shell("test $(grep -c '\"top_k\":5' b.jsonl) = 6");
    cr_expect_eq(keystep(out, sizeof out, GENERATE "--top-k 5 --out c.jsonl"),
                 0);
    shell("cmp b.jsonl c.jsonl && ! test -e b.jsonl.part");
}

/* A whole OUT stays if it is what would be written. */
Test(generate_resume, of_a_whole_file) {
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out b.jsonl"), 0);
    shell("cp b.jsonl a.jsonl");
    expect_said(RESUME, 0, "b.jsonl is already whole");
    shell("cmp a.jsonl b.jsonl && ! test -e b.jsonl.part");
    expect_said(
        RESUME "--seed 4", 1,
        "b.jsonl line 1 was sampled with other settings: \"seed\" is 3");
    shell("cmp a.jsonl b.jsonl && ! test -e b.jsonl.part");
    shell("sed -i 3d b.jsonl");
    expect_said(RESUME, 1, "b.jsonl has 5 of the 6 chains");
    expect_said(RESUME "--force", 0, "starts afresh");
    shell("cmp a.jsonl b.jsonl && ! test -e b.jsonl.part");
}

#endif
