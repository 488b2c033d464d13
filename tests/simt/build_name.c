/* build_name.c - the one thing in a test program that knows which of the three
 * builds it is: the tests themselves are compiled once for all. */
#include "build_name.h"

const char simt_build[] = SIMT_BUILD;
