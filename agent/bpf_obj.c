#include "agent/bpf_obj.h"

#include "bpf/connect.skel.h"
#include "bpf/flows.skel.h"
#include "bpf/inbound.skel.h"
#include "bpf/origdst.skel.h"
#include <bpf/bpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const names[WEFT_BPF_MAPS] = {
	"weft_abi",    "weft_pods",   "weft_names",	"weft_load",
	"weft_total",  "weft_exempt", "weft_client",	"weft_accepted",
	"weft_tuples", "weft_selfc",  "weft_listeners", "weft_counters",
};

const struct weft_bpf_hook weft_bpf_hooks[WEFT_BPF_HOOKS] = {
	{"weft_origdst", BPF_CGROUP_GETSOCKOPT},
	{"weft_flows", BPF_CGROUP_SOCK_OPS},
	{"weft_getpeer4", BPF_CGROUP_INET4_GETPEERNAME},
	{"weft_getpeer6", BPF_CGROUP_INET6_GETPEERNAME},
	{"weft_getsock4", BPF_CGROUP_INET4_GETSOCKNAME},
	{"weft_getsock6", BPF_CGROUP_INET6_GETSOCKNAME},
	{"weft_connect4", BPF_CGROUP_INET4_CONNECT},
	{"weft_connect6", BPF_CGROUP_INET6_CONNECT},
};

const char *weft_bpf_map_name(enum weft_bpf_map m)
{
	return names[m];
}

/* ---- what libbpf says: kept, shown only as part of an error */

static char said[16384]; /* main thread only; the tail is what matters */
static size_t said_len;

static int hear(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char buf[8192];
	int n;

	if (level == LIBBPF_DEBUG)
		return 0;
	n = vsnprintf(buf, sizeof(buf), fmt, ap);
	if (n < 0)
		return 0;
	if ((size_t)n >= sizeof(buf))
		n = sizeof(buf) - 1;
	if (said_len + (size_t)n >= sizeof(said)) {
		size_t drop = said_len + (size_t)n + 1 - sizeof(said);

		drop = drop > said_len ? said_len : drop;
		memmove(said, said + drop, said_len - drop);
		said_len -= drop;
	}
	memcpy(said + said_len, buf, (size_t)n);
	said_len += (size_t)n;
	said[said_len] = '\0';
	return n;
}

/* Line end..., without its newline; false at the beginning. *end moves before it. */
static bool line_before(size_t *end, const char **line, size_t *len)
{
	size_t stop = *end, begin;

	while (stop > 0 && said[stop - 1] == '\n')
		stop--;
	for (begin = stop; begin > 0 && said[begin - 1] != '\n'; begin--)
		;
	*line = said + begin;
	*len = stop - begin;
	*end = begin;
	return stop > 0;
}

/* What was said last: the verifier's verdict (the line before its statistics), else the last two
 * lines. */
static void said_tail(char *dst, size_t cap)
{
	const char *line, *verdict = NULL, *last[2] = {NULL, NULL};
	size_t end = said_len, len, verdict_len = 0, last_len[2] = {0, 0}, n = 0;

	while (!verdict && line_before(&end, &line, &len)) {
		if (n < 2) {
			last[n] = line;
			last_len[n++] = len;
		}
		if (len > 10 && !memcmp(line, "processed ", 10) && line_before(&end, &line, &len)) {
			verdict = line;
			verdict_len = len;
		}
	}
	if (verdict)
		snprintf(dst, cap, "verifier: %.*s", (int)verdict_len, verdict);
	else if (n == 2)
		snprintf(dst, cap, "%.*s; %.*s", (int)last_len[1], last[1], (int)last_len[0],
			 last[0]);
	else
		snprintf(dst, cap, "%.*s", (int)last_len[0], n ? last[0] : "");
}

int weft_bpf_fail(struct weft_err *reterr, int code, const char *fmt, ...)
{
	char text[128], tail[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	said_tail(tail, sizeof(tail));
	return weft_fail(reterr, NULL, code, "%s: %s%s%s%s", text, strerror(code),
			 tail[0] ? " (" : "", tail, tail[0] ? ")" : "");
}

/* ---- maps */

static int layout_same(const struct bpf_map *want, int fd)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -errno;
	return info.type == bpf_map__type(want) && info.key_size == bpf_map__key_size(want) &&
	       info.value_size == bpf_map__value_size(want) &&
	       info.max_entries == bpf_map__max_entries(want) &&
	       info.map_flags == bpf_map__map_flags(want);
}

static int other_layout(const char *pin_dir, const char *what, struct weft_err *reterr)
{
	return weft_fail(reterr, NULL, EEXIST,
			 "%s/%s was pinned by a weft of another layout; "
			 "run `weft-agent --unload --pin-dir %s`, then start again (pods are not "
			 "captured in between)",
			 pin_dir, what, pin_dir);
}

/* Gives the object's maps the fds already there, from an earlier object or from the pins. */
static int maps_share(struct weft_bpf_set *s, struct bpf_object *obj, const char *pin_dir,
		      struct weft_err *reterr)
{
	for (int i = 0; i < WEFT_BPF_MAPS; i++) {
		struct bpf_map *map = bpf_object__find_map_by_name(obj, names[i]);
		char path[512];
		int r;

		if (!map)
			return weft_fail(reterr, NULL, ENOENT, "no map %s in the object", names[i]);
		if (s->map[i] < 0 && pin_dir) {
			snprintf(path, sizeof(path), "%s/%s", pin_dir, names[i]);
			s->map[i] = bpf_obj_get(path);
			if (s->map[i] < 0 && errno != ENOENT)
				return weft_bpf_fail(reterr, errno, "open %s", path);
		}
		if (s->map[i] < 0)
			continue;
		r = layout_same(map, s->map[i]);
		if (r < 0)
			return weft_bpf_fail(reterr, -r, "map %s", names[i]);
		if (!r)
			return other_layout(pin_dir ? pin_dir : "memory", names[i], reterr);
		if (bpf_map__reuse_fd(map, s->map[i]))
			return weft_bpf_fail(reterr, errno, "share map %s", names[i]);
	}
	return 0;
}

static int maps_keep(struct weft_bpf_set *s, struct bpf_object *obj, const char *pin_dir,
		     struct weft_err *reterr)
{
	for (int i = 0; i < WEFT_BPF_MAPS; i++) {
		struct bpf_map *map = bpf_object__find_map_by_name(obj, names[i]);
		char path[512];

		if (s->map[i] >= 0)
			continue;
		s->map[i] = dup(bpf_map__fd(map));
		if (s->map[i] < 0)
			return weft_bpf_fail(reterr, errno, "keep map %s", names[i]);
		if (!pin_dir)
			continue;
		snprintf(path, sizeof(path), "%s/%s", pin_dir, names[i]);
		if (bpf_obj_pin(s->map[i], path))
			return weft_bpf_fail(reterr, errno, "pin %s", path);
	}
	return 0;
}

/* Sizes do not show a changed meaning: the version does. 0 is a map made just now. */
static int abi_check(const struct weft_bpf_set *s, const char *pin_dir, struct weft_err *reterr)
{
	__u32 zero = 0, version = 0;

	if (bpf_map_lookup_elem(s->map[WEFT_BPF_ABI], &zero, &version))
		return weft_bpf_fail(reterr, errno, "read map %s", names[WEFT_BPF_ABI]);
	if (version && version != WEFT_ABI_VERSION)
		return other_layout(pin_dir ? pin_dir : "memory", names[WEFT_BPF_ABI], reterr);
	version = WEFT_ABI_VERSION;
	if (bpf_map_update_elem(s->map[WEFT_BPF_ABI], &zero, &version, BPF_ANY))
		return weft_bpf_fail(reterr, errno, "write map %s", names[WEFT_BPF_ABI]);
	return 0;
}

/* ---- objects */

static int load(struct weft_bpf_set *s, struct bpf_object *obj, const char *what,
		const char *pin_dir, struct weft_err *reterr)
{
	int r = maps_share(s, obj, pin_dir, reterr);

	if (r < 0)
		return r;
	r = bpf_object__load(obj);
	if (r < 0)
		return weft_bpf_fail(reterr, -r, "load bpf/%s.bpf.c", what);
	return maps_keep(s, obj, pin_dir, reterr);
}

int weft_bpf_set_load(struct weft_bpf_set *s, const char *pin_dir, uint32_t half_open_max,
		      struct weft_err *reterr)
{
	int r;

	memset(s, 0, sizeof(*s));
	for (int i = 0; i < WEFT_BPF_MAPS; i++)
		s->map[i] = -1;
	said_len = 0;
	said[0] = '\0';
	libbpf_set_print(hear);
	s->connect = weft_bpf_connect__open();
	s->origdst = weft_bpf_origdst__open();
	s->flows = weft_bpf_flows__open();
	s->inbound = weft_bpf_inbound__open();
	if (!s->connect || !s->origdst || !s->flows || !s->inbound) {
		r = weft_bpf_fail(reterr, errno ? errno : EINVAL, "open the BPF objects");
		goto fail;
	}
	s->connect->rodata->half_open_max = half_open_max;
	r = load(s, s->connect->obj, "connect", pin_dir, reterr);
	if (!r)
		r = abi_check(s, pin_dir, reterr);
	if (!r)
		r = load(s, s->origdst->obj, "origdst", pin_dir, reterr);
	if (!r)
		r = load(s, s->flows->obj, "flows", pin_dir, reterr);
	if (!r)
		r = load(s, s->inbound->obj, "inbound", pin_dir, reterr);
	if (!r)
		return 0;
fail:
	weft_bpf_set_done(s);
	return r;
}

void weft_bpf_set_done(struct weft_bpf_set *s)
{
	weft_bpf_connect__destroy(s->connect);
	weft_bpf_origdst__destroy(s->origdst);
	weft_bpf_flows__destroy(s->flows);
	weft_bpf_inbound__destroy(s->inbound);
	for (int i = 0; i < WEFT_BPF_MAPS; i++)
		if (s->map[i] >= 0)
			close(s->map[i]);
	memset(s, 0, sizeof(*s));
	for (int i = 0; i < WEFT_BPF_MAPS; i++)
		s->map[i] = -1;
}

struct bpf_program *weft_bpf_set_prog(const struct weft_bpf_set *s, const char *name)
{
	struct bpf_object *const objs[WEFT_BPF_OBJECTS] = {s->connect->obj, s->origdst->obj,
							   s->flows->obj, s->inbound->obj};

	for (int i = 0; i < WEFT_BPF_OBJECTS; i++) {
		struct bpf_program *p = bpf_object__find_program_by_name(objs[i], name);

		if (p)
			return p;
	}
	return NULL;
}
