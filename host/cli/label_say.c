/* label_say.c - what keystep label --dry-run says of tokens, time and memory.
 */
#include "../../probes/label.h"
#include "cli.h"
#include "label.h"

static void print_cost(const ks_label_cost *cost, uint64_t held) {
    uint64_t memory = held + cost->bytes;
    json_t *all = json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "chains",
        (json_int_t)cost->chains, "tokens", (json_int_t)cost->tokens, "walked",
        (json_int_t)cost->walked, "computed", (json_int_t)cost->shared,
        "sampled", (json_int_t)cost->sampled, "least", (json_int_t)cost->least,
        "most", (json_int_t)cost->most, "filters", (json_int_t)cost->filters,
        "alone", (json_int_t)cost->alone, "influences",
        (json_int_t)cost->between, "held_bytes", (json_int_t)held,
        "memory_bytes", (json_int_t)memory);
    if (cost->read > 0)
        json_object_update_new(
            all, json_pack("{s:f,s:f,s:I,s:f,s:f,s:f}", "tokens_per_second",
                           cost->read, "sampled_per_second", cost->drawn,
                           "sampled_at_once", (json_int_t)cost->at_once,
                           "gradients_per_second", cost->pulled,
                           "suppressed_per_second", cost->suppressing,
                           "seconds", cost->seconds));
    ks_cli_print_json(all);
}

static void say_rate(const char *what, double rate) {
    if (rate > 0) printf(", %s %.0f tok/s", what, rate);
}

static void say_time(const ks_label_cost *cost) {
    if (cost->read <= 0) return;
    printf("That takes about %s: texts are read at %.0f tok/s",
           ks_cli_time_of(cost->seconds).text, cost->read);
    say_rate("samples drawn at", cost->drawn);
    say_rate("gradients pulled at", cost->pulled);
    say_rate("suppressed texts read at", cost->suppressing);
    printf(", as measured on a short piece of them.\n");
}

static void say_tokens(const ks_label_cost *cost) {
    bool searched = cost->filters < cost->shared;
    if (cost->chains == 0) {
        puts("No chain is asked about: their texts alone say why not.");
        return;
    }
    printf("%lld chains of %lld tokens are asked about.\n"
           "About %lld tokens go through the model%s",
           (long long)cost->chains, (long long)cost->tokens,
           (long long)cost->shared,
           searched ? ", as if every chain went through all stages, were its "
                      "own sufficient prefix and every second step needed"
                    : "");
    if (cost->least < cost->most)
        printf("; %lld where all samples of a set are alike, %lld where all "
               "part at once",
               (long long)cost->least, (long long)cost->most);
    printf(".\n");
    if (searched)
        printf("A chain that falls to a filter costs less: were all to, about "
               "%lld.\n",
               (long long)cost->filters);
    if (cost->between > 0)
        printf("Influences between steps take %lld more, forward and "
               "backward.\n",
               (long long)cost->between);
    printf("As published, a prompt and a sample at a time, it would be %lld.\n",
           (long long)cost->alone);
    if (cost->walked > 0 && cost->walked < cost->chains)
        printf("Counted on %lld chains, the others by their sizes.\n",
               (long long)cost->walked);
}

ks_status ks_cli_label_cost(ks_label_job *job, bool json, ks_err *err) {
    ks_status st = KS_OK;
    ks_label_cost cost;
    KS_TRY(ks_label_estimate(job, &cost, err));
    uint64_t held = ks_cli_resident_now().peak;
    KS_TRY(ks_label_measure(job, &cost, err));
    if (json) {
        print_cost(&cost, held);
        goto done;
    }
    say_tokens(&cost);
    say_time(&cost);
    ks_cli_print_memory(held, held + cost.bytes);
done:
    return st;
}
