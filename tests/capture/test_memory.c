/* The memory that capture --dry-run prints, beside what the kernel counted of
 * the capture itself: never less, and not far more. Only with many chains does
 * it show what they hold. */
#include <jansson.h>

#include "shell.h"

/* A sanitizer's own memory is not the program's. */
#if defined(KS_PROGRAM) && !defined(__SANITIZE_ADDRESS__) &&                   \
    !defined(__SANITIZE_THREAD__)

#define MODEL KS_TEST_DATA "/../../experiments/demo/models/demo-a"
#define CAPTURE                                                                \
    KS_PROGRAM " capture --quiet --threads 2 --model '" MODEL "' --out a.h5 "

enum { CHAINS = 1500, STEPS = 3, STEP = 12, REST = 4000 };

static char folder[64];

static void make_folder(void) {
    make_temporary(folder, "memory");
    cr_assert(chdir(folder) == 0);
}

static void drop_folder(void) {
    drop_temporary(folder);
}

TestSuite(memory, .init = make_folder, .fini = drop_folder, .timeout = 600);

/* Texts that are short to compute and long to hold. extra: bytes of a field
 * that capture does not know. of: each is cut from the chain of that name. */
static void write_chains(const char *path, const char *name, const char *of,
                         int extra) {
    FILE *file = fopen(path, "w");
    cr_assert(file);
    for (int c = 0; c < CHAINS; c++) {
        fprintf(file,
                "{\"id\":\"%s%d\",\"problem\":\"p%d\",\"prompt\":\"Q \","
                "\"text\":\"",
                name, c, c);
        for (int i = 0; i < STEPS; i++) fprintf(file, "Ada has %02d. ", i);
        fprintf(file, "\",\"rest\":\"%0*d\",\"mine\":\"%0*d\",\"steps\":[",
                REST, c, extra, c);
        for (int i = 0; i < STEPS; i++)
            fprintf(file, "%s{\"begin\":%d,\"end\":%d}", i ? "," : "", STEP * i,
                    STEP * i + STEP - 1);
        if (of)
            fprintf(file, "],\"of\":\"%s%d\",\"map\":[0,1,null]}\n", of, c);
        else
            fputs("]}\n", file);
    }
    cr_assert_eq(fclose(file), 0);
}

static void write_labels(const char *path, const char *name) {
    FILE *file = fopen(path, "w");
    cr_assert(file);
    for (int c = 0; c < CHAINS; c++)
        fprintf(file, "{\"chain\":\"%s%d\",\"labels\":[1,0,null]}\n", name, c);
    cr_assert_eq(fclose(file), 0);
}

static long long printed(const char *args) {
    char command[1024], said[4096];
    snprintf(command, sizeof command, CAPTURE "--dry-run --json %s 2>&1", args);
    cr_assert_eq(shell_run(command, said, sizeof said), 0, "%s", said);
    json_t *o = json_loads(said, 0, NULL);
    cr_assert(o, "%s", said);
    long long bytes = json_integer_value(json_object_get(o, "memory_bytes"));
    json_decref(o);
    return bytes;
}

static void expect_bound(const char *args) {
    char command[1024];
    snprintf(command, sizeof command, CAPTURE "--force %s", args);
    long long says = printed(args), took = shell_peak(command);
    cr_expect(took <= says, "%s: says %lld bytes, took %lld", args, says, took);
    cr_expect(2 * says <= 3 * took, "%s: says %lld bytes, took only %lld", args,
              says, took);
}

Test(memory, a_capture_takes_what_the_dry_run_says) {
    write_chains("c.jsonl", "c", NULL, 1);
    expect_bound("--chains c.jsonl");
    expect_bound("--chains c.jsonl --threads 9 --batch-tokens 256");
    expect_bound("--chains c.jsonl --positions mean --random-weights 1");
}

Test(memory, labels_and_clean_chains_are_in_it) {
    write_chains("c.jsonl", "c", NULL, 1);
    write_chains("k.jsonl", "k", "c", 1);
    write_labels("l.jsonl", "k");
    expect_bound("--chains c.jsonl --labels l.jsonl --labels-on original "
                 "--clean k.jsonl");
}

/* Fields that only others read go with their line. */
Test(memory, unknown_fields_are_not_held) {
    write_chains("c.jsonl", "c", NULL, 1);
    write_chains("d.jsonl", "c", NULL, 10000);
    long long without = printed("--chains c.jsonl");
    long long with = printed("--chains d.jsonl");
    cr_expect(with < without + CHAINS * 10000LL / 4,
              "%lld bytes with fields of %lld, %lld without", with,
              CHAINS * 10000LL, without);
}

#endif
