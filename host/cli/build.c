/* build.c - keystep --version. */
#include "build.h"

#include <gnu/libc-version.h>

#include "../blas.h"
#include "../cpu/ops_cpu.h"

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

static void words(const char *name, const char *const *list, int n) {
    printf("%s:", name);
    for (int i = 0; i < n; i++) printf(" %s", list[i]);
    puts("");
}

void ks_build_print(void) {
    puts("keystep " KS_VERSION);
    printf("commit: %s\n", ks_build_commit());
    printf("compiler: %s\n", COMPILER);
    printf("libc: glibc %d.%d, here %s\n", __GLIBC__, __GLIBC_MINOR__,
           gnu_get_libc_version());
    const char *sets[] = {ks__ops_v2.isa, ks__ops_avx2.isa, ks__ops_avx512.isa};
    words("instruction sets", sets, KS_COUNT(sets));
    const char *names[8];
    int n = 0;
    while (n < (int)KS_COUNT(names) && ks_backend_name(n)) {
        names[n] = ks_backend_name(n);
        n++;
    }
    words("backends", names, n);
#ifdef KS_CUDA_BUILT
    puts("cuda: " KS_CUDA_BUILT);
#endif
    printf("blas: %s\n", openblas_get_config());
}
