/* Gives up privilege for good. Called once, before the first network byte is read and before
 * threads start. */
#pragma once
#include "proxy/core/err.h"
#include <stdbool.h>
#include <sys/types.h>

/* User name or number → uid and gid; -ENOENT. */
int weft_user_lookup(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct weft_err *reterr);
struct weft_seal_conf {
	uid_t uid; /* switched to when running as root; 0 is refused */
	gid_t gid;
	bool no_seccomp; /* tests under sanitizers only */
	/* Of weft-waypoint; weft-proxy sets none of them. */
	bool keep_root; /* the user stays what it is, even root: then root without capabilities */
	bool low_ports; /* CAP_NET_BIND_SERVICE is kept, where it is there */
	bool net_admin; /* CAP_NET_ADMIN is kept, where it is there: transparent sockets, marks */
	bool files;	/* files may be opened to append to, watched, and removed (its sockets) */
};
/* Switches user, drops (but for what is to be kept) every capability and the bounding set, sets
 * no_new_privs, PR_SET_DUMPABLE 0, then a seccomp allow list for what an event-driven proxy needs;
 * connect/accept/send/recv stay, socket() only for AF_UNIX and AF_INET(6) STREAM/DGRAM, no execve,
 * no setns, no bpf, no ptrace, no open for writing. A refused call: EPERM, counted by the kernel
 * log. */
int weft_seal(const struct weft_seal_conf *conf, struct weft_err *reterr);
