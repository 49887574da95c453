/* Work inside a pod's network namespace. Everything that must run there runs on a short-lived
 * thread of its own, so that the caller never leaves its namespace. Any thread. */
#pragma once
#include "proxy/core/addr.h"
#include "proxy/core/err.h"
#include <stdbool.h>
#include <stddef.h>

/* An fd of the namespace at path: must be an nsfs entry of a network namespace, and not the
 * caller's own. -errno. */
int weft_netns_open(const char *path, struct weft_err *reterr);
/* fn(arg)'s result, called with the thread inside the namespace; or -errno of entering it. */
int weft_netns_run(int netns_fd, int (*fn)(void *arg), void *arg);
/* The namespace's addresses: no loopback, no link-local. *ret_n may exceed max: then only max were
 * stored. */
int weft_netns_addrs(int netns_fd, struct weft_ip *v, size_t max, size_t *ret_n);
/* Sets lo up and makes replies to spoofed sources (mark 0x111) come back to the proxy: rule 32764 →
 * table 100 → lo, and the mark of a SYN kept by what answers it. *ret_v6: IPv6 is on there.
 * Idempotent. 1: made now, 0: was there already. */
int weft_netns_prepare(int netns_fd, bool *ret_v6, struct weft_err *reterr);
/* Takes rule and table back; the sysctls stay. What is gone already is no error. */
int weft_netns_restore(int netns_fd, struct weft_err *reterr);
