#include "agent/bpf_pin.h"

#include <dirent.h>
#include <errno.h>
#include <linux/magic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define BPFFS "/sys/fs/bpf"
enum { NAME_KEPT = 180 };

static int on_bpffs(const char *path)
{
	struct statfs fs;

	if (statfs(path, &fs))
		return -errno;
	return (unsigned long)fs.f_type == BPF_FS_MAGIC;
}

static int mkdirs(const char *path)
{
	char buf[WEFT_BPF_PATH];

	if (snprintf(buf, sizeof(buf), "%s", path) >= (int)sizeof(buf))
		return -ENAMETOOLONG;
	for (char *p = buf + 1;; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = '\0';
		if (mkdir(buf, 0700) && errno != EEXIST)
			return -errno;
		if (!c)
			return 0;
		*p = c;
	}
}

int weft_bpf_pin_dir(const char *pin_dir, struct weft_err *reterr)
{
	size_t n = strlen(BPFFS);
	int r;

	if (!strncmp(pin_dir, BPFFS "/", n + 1) && !on_bpffs(BPFFS) &&
	    mount("bpffs", BPFFS, "bpf", 0, "mode=0700"))
		return weft_fail(reterr, NULL, errno, "mount a bpffs at " BPFFS ": %s",
				 strerror(errno));
	r = mkdirs(pin_dir);
	if (r < 0)
		return weft_fail(reterr, NULL, -r, "make %s: %s", pin_dir, strerror(-r));
	r = on_bpffs(pin_dir);
	if (r < 0)
		return weft_fail(reterr, NULL, -r, "%s: %s", pin_dir, strerror(-r));
	if (!r)
		return weft_fail(reterr, NULL, EINVAL,
				 "the pin directory must be on a bpffs, %s is not", pin_dir);
	return 0;
}

int weft_bpf_pod_path(const char *pin_dir, const char *uid, char *dst, size_t cap)
{
	char name[NAME_KEPT + 24];
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
	size_t n = 0;

	for (const char *p = uid; *p; p++) {
		unsigned char c = (unsigned char)*p;

		hash = (hash ^ c) * 0x100000001b3;
		if (n + 3 > NAME_KEPT)
			continue;
		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		    c == '-')
			name[n++] = (char)c;
		else
			n += (size_t)sprintf(name + n, "_%02x", c);
	}
	if (n + 3 > NAME_KEPT)
		n += (size_t)sprintf(name + n, "-%016llx", (unsigned long long)hash);
	name[n] = '\0';
	if (snprintf(dst, cap, "%s/" WEFT_BPF_POD_PREFIX "%s", pin_dir, name) >= (int)cap)
		return -ENAMETOOLONG;
	return 0;
}

int weft_bpf_pin_each(const char *pin_dir, const char *prefix,
		      int (*fn)(void *ctx, const char *path), void *ctx)
{
	struct dirent **v;
	int n, r = 0;

	n = scandir(pin_dir, &v, NULL, alphasort);
	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++) {
		char path[WEFT_BPF_PATH];

		if (!r && !strncmp(v[i]->d_name, prefix, strlen(prefix))) {
			if (snprintf(path, sizeof(path), "%s/%s", pin_dir, v[i]->d_name) <
			    (int)sizeof(path))
				r = fn(ctx, path);
			else
				r = -ENAMETOOLONG;
		}
		free(v[i]);
	}
	free(v);
	return r;
}
