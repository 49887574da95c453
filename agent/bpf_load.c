#include "agent/bpf_load.h"

#include "agent/bpf_int.h"
#include "agent/bpf_pin.h"
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { HALF_OPEN_DEFAULT = 8192 };

static int cgroup_open(struct weft_bpf *b, const char *path, struct weft_err *reterr)
{
	struct statfs fs;
	struct stat st;

	b->cgroup = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (b->cgroup < 0 || fstatfs(b->cgroup, &fs) || fstat(b->cgroup, &st))
		return weft_fail(reterr, NULL, errno, "cgroup %s: %s", path, strerror(errno));
	if ((unsigned long)fs.f_type != CGROUP2_SUPER_MAGIC)
		return weft_fail(reterr, NULL, EINVAL,
				 "cgroup %s: must be in a cgroup2 file system", path);
	b->cgroup_id = st.st_ino; /* kernfs: the id the programs see */
	return 0;
}

/* The pinned link gets the new program in one step; nothing is uncaptured in between. */
static int hook_replace(struct weft_bpf *b, struct bpf_link *link, const char *path,
			struct bpf_program *prog, struct weft_err *reterr)
{
	struct bpf_link_info info = {};
	__u32 len = sizeof(info);
	int r;

	if (bpf_obj_get_info_by_fd(bpf_link__fd(link), &info, &len))
		return weft_bpf_fail(reterr, errno, "%s", path);
	if (info.type != BPF_LINK_TYPE_CGROUP || info.cgroup.cgroup_id != b->cgroup_id)
		return weft_fail(reterr, NULL, EEXIST,
				 "%s is attached at cgroup id %llu, wanted is %llu; run "
				 "`weft-agent --unload` first",
				 path, (unsigned long long)info.cgroup.cgroup_id,
				 (unsigned long long)b->cgroup_id);
	r = bpf_link__update_program(link, prog);
	return r ? weft_bpf_fail(reterr, -r, "replace the program of %s", path) : 0;
}

static int hook_attach(struct weft_bpf *b, const char *name, struct weft_err *reterr)
{
	struct bpf_program *prog = weft_bpf_set_prog(&b->set, name);
	char path[WEFT_BPF_PATH];
	struct bpf_link *link;
	int r;

	if (!prog)
		return weft_fail(reterr, NULL, ENOENT, "no program %s in the objects", name);
	if (snprintf(path, sizeof(path), "%s/" WEFT_BPF_LINK_PREFIX "%s", b->pin_dir, name) >=
	    (int)sizeof(path))
		return weft_fail(reterr, NULL, ENAMETOOLONG, "pin directory: name too long");
	link = bpf_link__open(path);
	if (link) {
		r = hook_replace(b, link, path, prog, reterr);
	} else if (errno != ENOENT) {
		return weft_bpf_fail(reterr, errno, "open %s", path);
	} else {
		link = bpf_program__attach_cgroup(prog, b->cgroup);
		if (!link)
			return weft_bpf_fail(reterr, errno, "attach %s", name);
		r = bpf_link__pin(link, path);
		if (r)
			r = weft_bpf_fail(reterr, -r, "pin %s", path);
	}
	bpf_link__destroy(link); /* the pin keeps it */
	return r;
}

/* A namespace that is gone took its link along: the pin is empty and goes too. */
static int pod_replace(void *ctx, const char *path)
{
	struct weft_bpf *b = ctx;
	struct bpf_link *link = bpf_link__open(path);
	int r;

	if (!link)
		return weft_bpf_fail(b->err, errno, "open %s", path);
	r = bpf_link__update_program(link, b->inbound);
	if (r == -ENOLINK)
		r = unlink(path) ? -errno : 0;
	bpf_link__destroy(link);
	return r ? weft_bpf_fail(b->err, -r, "replace the program of %s", path) : 0;
}

int weft_bpf_open(const struct weft_bpf_conf *conf, struct weft_bpf **ret, struct weft_err *reterr)
{
	struct weft_bpf *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return weft_fail(reterr, NULL, ENOMEM, "no memory");
	b->cgroup = -1;
	for (int i = 0; i < WEFT_BPF_MAPS; i++)
		b->set.map[i] = -1;
	if (strlen(conf->pin_dir) > WEFT_BPF_PATH - 256) {
		r = weft_fail(reterr, NULL, ENAMETOOLONG, "pin directory: name too long");
		goto fail;
	}
	b->pin_dir = strdup(conf->pin_dir);
	if (!b->pin_dir) {
		r = weft_fail(reterr, NULL, ENOMEM, "no memory");
		goto fail;
	}
	r = weft_bpf_own_cookie(&b->own_cookie);
	if (r < 0) {
		r = weft_fail(reterr, NULL, -r,
			      "SO_NETNS_COOKIE: %s (kernel 5.14 or newer is needed)", strerror(-r));
		goto fail;
	}
	r = cgroup_open(b, conf->cgroup, reterr);
	if (!r)
		r = weft_bpf_pin_dir(conf->pin_dir, reterr);
	if (!r)
		r = weft_bpf_set_load(&b->set, conf->pin_dir,
				      conf->half_open_max ? conf->half_open_max : HALF_OPEN_DEFAULT,
				      reterr);
	if (r)
		goto fail;
	for (int i = 0; i < WEFT_BPF_HOOKS; i++) {
		r = hook_attach(b, weft_bpf_hooks[i].prog, reterr);
		if (r)
			goto fail;
	}
	b->inbound = weft_bpf_set_prog(&b->set, "weft_inbound");
	b->err = reterr;
	r = weft_bpf_pin_each(conf->pin_dir, WEFT_BPF_POD_PREFIX, pod_replace, b);
	b->err = NULL;
	if (r)
		goto fail;
	*ret = b;
	return 0;
fail:
	weft_bpf_close(b);
	return r;
}

void weft_bpf_close(struct weft_bpf *b)
{
	if (!b)
		return;
	weft_bpf_set_done(&b->set);
	if (b->cgroup >= 0)
		close(b->cgroup);
	free(b->pin_dir);
	free(b);
}

/* ---- unload */

static int link_remove(void *ctx, const char *path)
{
	struct bpf_link *link = bpf_link__open(path);

	/* detached, not only unpinned: another process may still hold the link. Of a gone
	 * namespace: nothing to detach. */
	if (link) {
		int r = bpf_link__detach(link);

		bpf_link__destroy(link);
		if (r && r != -ENOLINK && r != -EOPNOTSUPP)
			return weft_bpf_fail(ctx, -r, "detach %s", path);
	}
	if (unlink(path) && errno != ENOENT)
		return weft_bpf_fail(ctx, errno, "remove %s", path);
	return 0;
}

static int map_remove(void *ctx, const char *path)
{
	if (unlink(path) && errno != ENOENT)
		return weft_bpf_fail(ctx, errno, "remove %s", path);
	return 0;
}

int weft_bpf_unload(const char *pin_dir, struct weft_err *reterr)
{
	int r;

	if (access(pin_dir, F_OK))
		return errno == ENOENT
			       ? 0
			       : weft_fail(reterr, NULL, errno, "%s: %s", pin_dir, strerror(errno));
	/* names sort connect before the rest: no new flow is captured while the other programs go
	 */
	r = weft_bpf_pin_each(pin_dir, WEFT_BPF_LINK_PREFIX "weft_connect", link_remove, reterr);
	if (!r)
		r = weft_bpf_pin_each(pin_dir, WEFT_BPF_POD_PREFIX, link_remove, reterr);
	if (!r)
		r = weft_bpf_pin_each(pin_dir, WEFT_BPF_LINK_PREFIX, link_remove, reterr);
	if (!r)
		r = weft_bpf_pin_each(pin_dir, "weft_", map_remove, reterr);
	if (r < 0)
		return r;
	if (rmdir(pin_dir) && errno != ENOENT)
		return weft_fail(reterr, NULL, errno, "remove %s: %s", pin_dir, strerror(errno));
	return 0;
}
