/* build.h - what this build of the program is. */
#ifndef KS_BUILD_H
#define KS_BUILD_H

/* The commit that it was built from, twelve digits, with "-dirty" behind them
 * where its sources had uncommitted changes; "unknown" where there was neither
 * git nor an archive that git made. */
const char *ks_build_commit(void);

/* Prints `keystep --version`: the version, then a line a fact, "name: value".
 */
void ks_build_print(void);

#endif
