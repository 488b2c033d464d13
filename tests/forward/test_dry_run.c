/* What --dry-run says of generate, score and label: tokens as the run counts
 * them, time as tokens at the rates that were measured, memory beside the most
 * that a run took; and nothing is written. */
#include <math.h>

#include "generate_shell.h"

#ifdef KS_PROGRAM

/* Requests, answers and the allocator's own are not counted. */
#define MORE (8LL << 20)

TestSuite(dry_run, .timeout = 600);

static void make(void) {
    make_folder();
    write_problems();
    cr_assert_eq(keystep(out, sizeof out, GENERATE "--out c.jsonl"), 0, "%s",
                 out);
    cr_assert_eq(chdir(folder), 0);
}

static json_t *asked(const char *args, const char *more) {
    char line[1024];
    snprintf(line, sizeof line, "%s --json --quiet %s", args, more);
    cr_assert_eq(keystep(out, sizeof out, line), 0, "%s: %s", line, out);
    json_t *said = json_loads(out, 0, NULL);
    cr_assert(said, "%s: %s", line, out);
    return said;
}

static double number(const json_t *said, const char *key) {
    const json_t *value = json_object_get(said, key);
    cr_assert(json_is_number(value), "no %s", key);
    return json_number_value(value);
}

static void near(const char *what, double a, double b, double within) {
    cr_expect(fabs(a - b) <= within * fabs(b), "%s: %g and %g", what, a, b);
}

/* The most that a run of these arguments takes is what was said, or less. */
static void expect_room(const json_t *said, const char *args) {
    char command[1024];
    cr_expect_gt(number(said, "memory_bytes"), number(said, "held_bytes"));
    if (getenv("KS_UNDER_SANITIZER")) return; /* its memory is its own */
    cr_assert_eq(setenv("M", MODEL, 1), 0);
    snprintf(command, sizeof command, KS_PROGRAM " %s --quiet", args);
    long long took = shell_peak(command);
    cr_expect(took <= (long long)number(said, "memory_bytes") + MORE,
              "%s: %.0f bytes said, %lld taken", args,
              number(said, "memory_bytes"), took);
}

static const char *const memories[] = {"", "--memory 16M"};

Test(dry_run, of_generate) {
    make();
    for (size_t i = 0; i < KS_COUNT(memories); i++) {
        char args[512];
        snprintf(args, sizeof args, "%s %s", GENERATE, memories[i]);
        json_t *said = asked(args, "--dry-run");
        double new = number(said, "most_new_tokens");
        double prompts =
            number(said, "prompt_tokens") - number(said, "shared_tokens");
        near("seconds", number(said, "most_seconds"),
             prompts / number(said, "tokens_per_second") +
                 new / number(said, "sampled_per_second"),
             1e-3);
        cr_expect_eq(number(said, "sampled_at_once"), 6); /* all of them */
        shell("test \"$(ls)\" = \"$(printf 'c.jsonl\\nproblems.jsonl')\"");
        snprintf(args, sizeof args, "%s %s --out a.jsonl", GENERATE,
                 memories[i]);
        expect_room(said, args);
        shell("rm -f a.jsonl said");
        json_decref(said);
    }
    /* of a share, the second half of two, whose prompt no context holds */
    shell("head -n 1 problems.jsonl >two && python3 -c \"print('{\\\"id\\\":"
          "\\\"long\\\",\\\"question\\\":\\\"' + 'Ben has 2. ' * 4000 + "
          "'\\\"}')\" >>two");
    json_t *said =
        asked("generate --model $M --problems two --shard 2/2", "--dry-run");
    cr_expect(number(said, "chains") == 0 && number(said, "held_bytes") > 0 &&
              number(said, "most_seconds") == 0);
    json_decref(said);
    cr_expect_eq(keystep(out, sizeof out,
                         "generate --model $M --problems two --shard 2/2 "
                         "--dry-run"),
                 0);
    cr_expect(!strstr(out, "tok/s") && strstr(out, "left out: long"), "%s",
              out);
    drop_folder();
}

/* Chains that enter a batch together do not find each other's tokens: a few
 * short ones compute more than is said. */
Test(dry_run, of_score) {
    static const char *const whats[] = {"logprob", "logprob,entropy",
                                        "judge-step", "judge,judge-step"};
    make();
    shell("cp -r \"" MODEL "\" m && sed -i "
          "'s/\"max_position_embeddings\": 512/"
          "\"max_position_embeddings\": 4096/' m/config.json");
    for (size_t i = 0; i < KS_COUNT(whats); i++) {
        char args[512];
        snprintf(args, sizeof args,
                 "score --model m --threads 1 --chains c.jsonl --problems "
                 "problems.jsonl --what %s",
                 whats[i]);
        json_t *said = asked(args, "--dry-run");
        json_t *did = asked(args, "--out s.jsonl");
        near(whats[i], number(said, "computed"), number(did, "computed"), 0.25);
        cr_expect_eq(number(said, "chains"), number(did, "chains"));
        cr_expect_eq(number(said, "steps"), number(did, "steps"));
        near("seconds", number(said, "seconds"),
             number(said, "computed") / number(said, "tokens_per_second"),
             1e-3);
        snprintf(args + strlen(args), 64, " --force --out s.jsonl");
        expect_room(said, args);
        shell("rm s.jsonl");
        json_decref(said);
        json_decref(did);
    }
    expect_said("score --model m --dry-run", 2, "--dry-run goes with --chains");
    expect_said("score --model m --chains c.jsonl --dry-run", 0,
                "tokens go through the model");
    shell("! test -e s.jsonl && ! test -e s.jsonl.part");
    drop_folder();
}

#define LABELS KS_TEST_DATA "/../../experiments/demo-labels/"
#define LABEL                                                                  \
    "label --model " LABELS "model --problems p --chains c.jsonl --threads 1 "

Test(dry_run, of_label) {
    static const char *const ways[] = {
        "", "--memory 16M", "--method suppression --suppression",
        "--method random --sufficiency exact", "--influence integrated"};
    make_folder();
    cr_assert_eq(chdir(folder), 0);
    shell("head -n 6 " LABELS "problems.jsonl > p && " KS_PROGRAM
          " generate --quiet --instruction= --model " LABELS
          "model --problems p --out c.jsonl");
    for (size_t i = 0; i < KS_COUNT(ways); i++) {
        char args[512];
        snprintf(args, sizeof args, LABEL "%s", ways[i]);
        json_t *said = asked(args, "--dry-run");
        double read = number(said, "computed") - number(said, "sampled");
        double between = number(said, "influences");
        double seconds = read / number(said, "tokens_per_second");
        bool gradients = !strstr(ways[i], "--method");
        bool suppressed = strstr(ways[i], "--suppression");
        cr_expect_eq(number(said, "gradients_per_second") > 0, gradients);
        cr_expect_eq(number(said, "suppressed_per_second") > 0, suppressed);
        /* as many at a time as a store holds */
        cr_expect_eq(number(said, "sampled_at_once") > 1,
                     number(said, "sampled") > 0);
        if (number(said, "sampled") > 0)
            seconds +=
                number(said, "sampled") / number(said, "sampled_per_second");
        if (between > 0)
            seconds +=
                between / number(said, gradients ? "gradients_per_second"
                                                 : "suppressed_per_second");
        near(ways[i], number(said, "seconds"), seconds, 1e-3);
        snprintf(args, sizeof args,
                 LABEL "%s --force --out l.jsonl --clean k.jsonl", ways[i]);
        expect_room(said, args);
        shell("rm -f l.jsonl k.jsonl said");
        json_decref(said);
    }
    expect_said(LABEL "--dry-run", 0, "That takes about ");
    expect_said(LABEL "--dry-run --memory 4M", 1,
                "; a larger --memory is needed for chain ");
    shell("test \"$(ls)\" = \"$(printf 'c.jsonl\\np')\"");
    drop_folder();
}

#endif
