/* keystep probe --cells, --shard and --need-cells as a user calls them: the
 * same bytes however the cells were made, and nothing taken that does not fit.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "fixture.h"
#include "shell.h"

#ifdef KS_PROGRAM

static fixture f;

static void setup(void) {
    fixture_make(&f);
    ks_err err = {0};
    cr_assert(write_acts(&f, f.other, 1u << KS_MEAN, &err) == KS_OK);
}

static void teardown(void) {
    fixture_free(&f);
}

TestSuite(probe_cells, .init = setup, .fini = teardown, .timeout = 300);

/* A shell line in the folder; $P is the whole command but for --out, $Q one
 * that is quick. */
static int run(const char *line) {
    char command[2048], out[64];
    snprintf(command, sizeof command,
             "cd %s; B='%s probe --quiet --bootstrap 100 --no-text --strengths "
             "0.01,1'; A='--acts acts.h5 --labels labels.jsonl'; "
             "P=\"$B $A --baseline-acts same=other.h5 --seeds 2 --folds 3 "
             "--probes lw-linear,mlp-layer:4 --protocol published\"; "
             "Q=\"$B $A --positions mean --analyses none\"; %s",
             f.dir, KS_PROGRAM, line);
    return shell_run(command, out, sizeof out);
}

static void expect(const char *line) {
    cr_expect(eq(int, run(line), 0), "%s", line);
}

/* ------------------------------------------------------------------- the bytes
 */

Test(probe_cells, shards_give_the_bytes_of_one_process) {
    expect("$P --out whole >whole.txt");
    expect("$P --cells c --out fresh >fresh.txt && cmp whole.txt fresh.txt && "
           "diff -r whole fresh");
    for (int n = 1; n <= 7; n += n == 1 ? 2 : 4) {
        char line[512];
        snprintf(line, sizeof line,
                 "for k in $(seq %d -1 1); do $P --cells c%d --shard $k/%d "
                 ">>told || exit 1; done; test $(wc -l <told) = %d && rm told "
                 "&& $P --cells c%d --need-cells --out o%d >/dev/null && "
                 "diff -r whole o%d && "
                 "test \"$(ls c | sort)\" = \"$(ls c%d | sort)\"",
                 n, n, n, n, n, n, n, n);
        expect(line);
    }
    /* each cell is made once, and all of them */
    expect("for k in 1 2 3; do $P --cells d --shard $k/3 --json; done >told && "
           "cat told >&2 && test $(grep -o '\"made\": [0-9]*' told | "
           "awk '{n += $2} END {print n}') = $(ls d | wc -l)");
    /* nothing is left to do, and no table was written */
    expect("$P --cells d --shard 2/3 | grep -q ' 0 made$' && "
           "test ! -e d/table.md");
}

Test(probe_cells, a_killed_run_goes_on_to_the_same_bytes) {
    expect("$P --out whole >/dev/null");
    expect("$P --cells c --out o >/dev/null 2>&1 & for i in $(seq 2000); do "
           "test $(ls c 2>/dev/null | wc -l) -ge 5 && break; sleep 0.01; done; "
           "kill -KILL $!; wait $!; test $? = 137 && test ! -e o/table.md");
    expect("$P --cells c --out o >/dev/null && diff -r whole o");
    /* SIGTERM: 130, and what is made stays */
    expect("$P --cells t --out o2 >/dev/null 2>said & for i in $(seq 2000); do "
           "test $(ls t 2>/dev/null | wc -l) -ge 5 && break; sleep 0.01; done; "
           "kill -TERM $!; wait $!; test $? = 130 && "
           "grep -q 'goes on from what is in t' said && "
           "test $(ls t | wc -l) -ge 5 && test ! -e o2");
    expect("$P --cells t --out o2 >/dev/null && diff -r whole o2");
}

Test(probe_cells, other_layers_and_analyses_reuse_cells) {
    expect("$Q --cells c --out o >/dev/null && test $(ls c | wc -l) = 4");
    expect("$Q --layers 1-2 --out part >/dev/null && "
           "$Q --layers 1-2 --cells c --need-cells --out o2 >/dev/null && "
           "diff -r part o2 && test $(ls c | wc -l) = 4");
    expect("$Q --analyses all --out all >/dev/null && "
           "$Q --analyses all --cells c --need-cells --out o3 >/dev/null && "
           "diff -r all o3 && test $(ls c | wc -l) = 4");
    expect("$Q --layers 1-2 --probes mlp-layer:4 --cells m --out a >/dev/null "
           "&& $Q --layers 1-2 --probes mlp-layer:4 --out b >/dev/null && "
           "diff -r a b && $Q --probes mlp-layer:4 --cells m --out d "
           ">/dev/null && $Q --probes mlp-layer:4 --out e >/dev/null && "
           "diff -r d e && test $(ls m | wc -l) = 8");
}

/* ------------------------------------------------------------ what is not
 * taken
 */

Test(probe_cells, cells_of_other_labels_are_told_and_not_taken) {
    expect("$Q --cells c --out o >/dev/null && sed -i "
           "'1s/\"labels\":\\[[01]/\"labels\":[null/' labels.jsonl && "
           "$Q --cells c --need-cells --out o2 2>said; test $? = 1 && "
           "test $(wc -l <said) = 1 && grep -q 'c: l2-resid-mean-layer00-"
           "[0-9a-f]*.safetensors is missing, and 3 more of 4 (l2-.* is there "
           "and differs in ' said");
    expect("$(echo $Q | sed 's/--quiet//') --cells c --out o3 2>said "
           ">/dev/null && grep -q '4 cells of other settings or inputs are not "
           "taken' said && test $(ls c | wc -l) = 8");
    expect("$Q --out o4 >/dev/null && diff -r o3 o4");
}

Test(probe_cells, a_missing_cell_is_named_with_its_shard) {
    expect("$Q --cells c --shard 1/2 >/dev/null && "
           "$Q --cells c --need-cells --out o 2>said; test $? = 1 && "
           "test ! -e o && grep -q 'is missing, and 1 more of 4; --shard 2/2 "
           "makes it' said");
    expect("$Q --cells none --need-cells --out o 2>said; test $? = 1 && "
           "test ! -e o && grep -q '^keystep probe: none: ' said");
}

/* spoil: a shell line that spoils file $C. */
static void expect_unfit(const char *spoil) {
    char line[768];
    snprintf(line, sizeof line,
             "rm -rf c o o2 && $Q --cells c --out o >/dev/null && "
             "C=$(ls c/l2-resid-mean-layer02-*) && cp $C kept && %s && "
             "! cmp -s $C kept && "
             "$Q --cells c --need-cells --out o2 2>said; test $? = 1 && "
             "test ! -e o2 && test $(wc -l <said) = 1 && "
             "grep -q 'layer02-.*safetensors' said && "
             "$Q --cells c --out o2 >/dev/null && diff -r o o2 && "
             "cmp $C kept",
             spoil);
    cr_expect(eq(int, run(line), 0), "%s", spoil);
    run("cat said >&2");
}

Test(probe_cells, unfit_files_are_refused_or_made_anew) {
    expect_unfit("truncate -s 0 $C");
    expect_unfit("truncate -s -1 $C");
    expect_unfit("truncate -s 100 $C");
    expect_unfit("printf x | dd of=$C bs=1 conv=notrunc "
                 "seek=$(($(stat -c %s $C) - 9)) 2>/dev/null");
    expect_unfit("head -c 4096 /dev/urandom >$C");
    /* another cell under its name; lying shapes; another order */
    expect_unfit("cp c/l2-resid-mean-layer01-* $C");
    expect_unfit("sed -i 's/\"inner\":{/\"INNER\":{/' $C");
    expect_unfit("sed -i 's/\"loss\":{/\"lost\":{/; s/keystep cell 1/"
                 "keystep cell 9/' $C");
}

Test(probe_cells, usage) {
    cr_expect(eq(int, run("$Q --shard 1/2 2>/dev/null"), 2));
    cr_expect(eq(int, run("$Q --need-cells --out o 2>/dev/null"), 2));
    cr_expect(
        eq(int, run("$Q --cells c --shard 1/2 --need-cells 2>/dev/null"), 2));
    cr_expect(eq(int, run("$Q --cells c --shard 3/2 2>/dev/null"), 2));
    cr_expect(eq(int, run("$Q --cells labels.jsonl --out o 2>/dev/null"), 1));
}

#endif
