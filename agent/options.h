/* Command line of weft-agent. */
#pragma once
#include "proxy/core/log.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct weft_agent_options {
	const char *config, *node, *run_dir, *state_dir, *pin_dir, *proxy_user, *waypoint_user,
		*instance;
	char cgroup[256]; /* cgroup2 mount */
	bool move_cgroup; /* its cgroup2 stands beside v1 ones: no container has a cgroup of its own
			     there */
	bool move_set;
	uid_t proxy_uid, waypoint_uid;
	gid_t proxy_gid;
	unsigned adopt_wait_ms, retry_ms, half_open_max;
	int64_t root_ttl_s;
	enum weft_log_level log_level;
	bool log_json, check, unload;
};
/* 0: run; 1: help or version was printed; -EINVAL: said on stderr what is wrong. Strings point into
 * argv. */
int weft_agent_options(int argc, char **argv, struct weft_agent_options *ret);
