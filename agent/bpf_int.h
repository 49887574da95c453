/* What bpf_load.c and bpf_pods.c share. */
#pragma once
#include "agent/bpf_load.h"
#include "agent/bpf_obj.h"

struct weft_bpf {
	struct weft_bpf_set set;
	struct bpf_program *inbound; /* of set */
	char *pin_dir;
	int cgroup;
	uint64_t cgroup_id;
	uint64_t own_cookie;  /* the node's own namespace: never enrolled */
	struct weft_err *err; /* only during weft_bpf_open */
};

int weft_bpf_own_cookie(uint64_t *ret); /* of the caller's namespace; -errno */
