/* ask.h - a program that is asked whether something passes: a JSON object a
 * line to its standard input, {"pass":true|false} a line back. */
#ifndef KS_ASK_H
#define KS_ASK_H

#include "../base.h"

typedef struct ks_ask ks_ask;

/* Starts `program` by /bin/sh; its standard error is ours. It lives until
 * ks_ask_close, which closes its input and waits for its end. From here on the
 * process ignores SIGPIPE. */
ks_status ks_ask_open(ks_ask **out, const char *program, ks_err *err);
/* The boolean "pass" of its answer. A program that has ended, closed its output
 * or answered anything else is asked no more: every later call fails with the
 * same sentence. */
ks_status ks_ask_pass(ks_ask *ask, const json_t *question, bool *pass,
                      ks_err *err);
void ks_ask_close(ks_ask **asked);

#endif
