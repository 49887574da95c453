/* Places in the bpffs: the folder, and file names for pods. Private to bpf_*.c. */
#pragma once
#include "proxy/core/err.h"
#include <stddef.h>

#define WEFT_BPF_LINK_PREFIX "link-"
#define WEFT_BPF_POD_PREFIX  "pod-"
enum { WEFT_BPF_PATH = 512 };

/* Makes pin_dir, mounting a bpffs at /sys/fs/bpf when pin_dir is below it and nothing is mounted
 * there. */
int weft_bpf_pin_dir(const char *pin_dir, struct weft_err *reterr);
/* The file of a pod's link: what bpffs does not allow or a shell would not like is written _XX;
 * what is too long ends in a hash. */
int weft_bpf_pod_path(const char *pin_dir, const char *uid, char *dst, size_t cap);
/* The files in pin_dir whose name begins with prefix, one call each; stops at the first that is not
 * 0. -errno of reading. */
int weft_bpf_pin_each(const char *pin_dir, const char *prefix,
		      int (*fn)(void *ctx, const char *path), void *ctx);
