/* race_off.cpp - the builds without the hooks of race.cpp. */
#include "internal.h"

void simt_race_open(char *, size_t) {
}
void simt_race_state(void *, size_t, simt_byte) {
}
void simt_race_copy(void *, const void *, size_t) {
}
void simt_race_launch(void) {
}
void simt_race_block(void) {
}
void simt_race_barrier(void) {
}
void simt_race_warp(int, unsigned) {
}
void simt_race_access(const void *, size_t, simt_access, simt_site) {
}
