/* bench_machine.c - where a bench ran: what stands in every row of its table
 * behind its own columns. Of the host no name: the processor, its clock and the
 * version say what a figure is worth. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../ops.h"
#include "bench.h"
#include "build.h"

/* ------------------------------------------------------------------- clocks */

/* The first line of a file of /sys without its end; false where it cannot be
 * read. */
static bool read_line(const char *path, char *out, int n) {
    FILE *file = fopen(path, "re");
    bool got = file && fgets(out, n, file);
    if (file) fclose(file);
    if (got) out[strcspn(out, "\n")] = 0;
    return got;
}

/* Of all lines "NAME : number" of /proc/cpuinfo the mean; NaN: none. */
static double mean_mhz(void) {
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    double sum = 0, n = 0;
    while (file && fgets(line, sizeof line, file)) {
        const char *at = strchr(line, ':');
        if (!at || strncmp(line, "cpu MHz", 7) != 0) continue;
        sum += strtod(at + 1, NULL);
        n++;
    }
    if (file) fclose(file);
    return sum / n;
}

static json_t *clock_of(const char *name) {
    char path[128], text[64], *end;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cpufreq/%s",
             name);
    if (!read_line(path, text, sizeof text)) return json_null();
    double khz = strtod(text, &end);
    return *end || end == text ? json_string(text) : json_real(khz / 1e3);
}

/* ---------------------------------------------------------------- processor */

static void find_processor(char *out, int n) {
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    snprintf(out, (size_t)n, "unknown processor");
    while (file && fgets(line, sizeof line, file)) {
        const char *at = strchr(line, ':');
        if (!at || strncmp(line, "model name", 10) != 0) continue;
        at += 1 + strspn(at + 1, " ");
        snprintf(out, (size_t)n, "%.*s", (int)strcspn(at, "\n"), at);
        break;
    }
    if (file) fclose(file);
}

static double memory_gib(void) {
    char *text = NULL;
    double kib = 0;
    if (ks_read_file("/proc/meminfo", SIZE_MAX, &text, NULL, NULL) == KS_OK) {
        const char *at = strstr(text, "MemTotal:");
        kib = at ? strtod(at + 9, NULL) : 0;
    }
    free(text);
    return kib / 1048576;
}

/* As .ci/machine says it, so that older tables name the same machine so. */
static void find_machine(const char *processor, char *out, size_t n) {
    const char *isa = __builtin_cpu_supports("avx512bf16") ? "avx512_bf16"
                      : __builtin_cpu_supports("avx512f")  ? "avx512f"
                      : __builtin_cpu_supports("avx2")     ? "avx2"
                                                           : "";
    snprintf(out, n, "%s, %d cores, %s, %.0f GiB", processor,
             omp_get_num_procs(), isa, memory_gib());
}

/* --------------------------------------------------------------------- all */

static json_t *device_of(const char *backend, json_t **driver) {
    ks_dev_facts facts;
    *driver = NULL;
    if (!ks_cli_on_device(backend)) return NULL;
    char first[64];
    snprintf(first, sizeof first, "%.*s", (int)strcspn(backend, ","), backend);
    if (ks_dev_describe(first, &facts, NULL) != KS_OK) return NULL;
    *driver = json_sprintf("CUDA %d.%d", facts.driver / 1000,
                           facts.driver % 1000 / 10);
    return json_string(facts.name);
}

static json_t *date(void) {
    time_t now = time(NULL);
    struct tm parts;
    char text[32];
    if (!gmtime_r(&now, &parts)) return json_null();
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return json_string(text);
}

ks_status ks_bench_machine(json_t **out, const ks_cli_common *c, ks_err *err) {
    ks_status st = KS_OK;
    char processor[200], machine[300];
    ks_dev_facts cpu;
    json_t *driver = NULL, *device = device_of(c->backend, &driver);
    double mhz = mean_mhz();
    KS_TRY(ks_dev_describe("cpu", &cpu, err));
    cpu.isa[strcspn(cpu.isa, " ")] = 0;
    find_processor(processor, sizeof processor);
    find_machine(processor, machine, sizeof machine);
    *out = json_pack(
        "{s:s,s:o*,s:o*,s:i,s:s,s:s,s:s,s:o,s:o,s:o,s:s,s:s,s:o}", "backend",
        ks_cli_on_device(c->backend) ? "cuda" : "cpu", "device", device,
        "driver", driver, "threads", c->threads ? c->threads : cpu.threads,
        "isa", cpu.isa, "machine", machine, "processor", processor, "mhz",
        ks_bench_real(mhz), "max_mhz", clock_of("cpuinfo_max_freq"), "governor",
        clock_of("scaling_governor"), "version", KS_VERSION, "commit",
        ks_build_commit(), "date", date());
    KS_CHECK(*out, KS_NOMEM, "no memory for what the machine is");
    /* columns of every table, with a device or without */
    if (!device) json_object_set_new(*out, "device", json_null());
    if (!driver) json_object_set_new(*out, "driver", json_null());
done:
    return st;
}
