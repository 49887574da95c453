/* Command line of weft-proxy. */
#pragma once
#include "proxy/core/log.h"
#include "proxy/node/node_priv.h"

struct weft_options {
	struct weft_node_conf conf;
	unsigned stock_min, stock_max;
	const char *run_dir, *user;
	struct weft_sockaddr metrics, ready; /* family 0: off */
	const char *access_log;		     /* NULL: off */
	enum weft_log_format access_format;
	enum weft_log_level log_level;
	bool log_json, no_seccomp;
};
/* 0: run; 1: help or version was printed; -EINVAL: said on stderr what is wrong. Strings point into
 * argv. */
int weft_options_parse(int argc, char **argv, struct weft_options *ret);
