#include "proxy/http/xff.h"

#include "xds/proto/envoy/extensions/http/original_ip_detection/xff/v3/xff.pb-c.h"

#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

typedef Envoy__Extensions__Filters__Network__HttpConnectionManager__V3__HttpConnectionManager msg_t;
typedef Envoy__Extensions__Http__OriginalIpDetection__Xff__V3__XffConfig xff_msg;

enum { XFF_HOPS_MAX = 1000 };

/* ---- configuration */

static int read_cidrs(struct weft_cfg *c, const struct weft_path *at,
		      Envoy__Config__Core__V3__CidrRange *const *v, size_t n,
		      const struct weft_cidr **ret)
{
	struct weft_cidr *to = weft_arena_alloc(c->arena, n * sizeof(*to));
	int err = 0;

	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};
		uint32_t len = v[i]->prefix_len ? v[i]->prefix_len->value : 0;
		struct weft_ip ip;

		if (weft_ip_parse(v[i]->address_prefix ?: "", &ip))
			err = weft_cfg_fail(c, &p,
					    "address_prefix: must be an IP address, is "
					    "\"%s\"",
					    v[i]->address_prefix ?: "");
		else if (weft_cidr_make(&ip, len, &to[i]))
			err = weft_cfg_fail(c, &p, "prefix_len: must be 0..%d, is %u",
					    ip.family == 4 ? 32 : 128, len);
	}
	*ret = to;
	return err;
}

static int read_xff(struct weft_cfg *c, const struct weft_path *at, const xff_msg *m,
		    struct weft_xff_detect *d)
{
	struct weft_path p = {at, "xff_trusted_cidrs", -1}, q = {&p, "cidrs", -1};

	d->hops = m->xff_num_trusted_hops;
	d->append = !weft_cfg_bool(m->skip_xff_append, true);
	if (!m->xff_trusted_cidrs)
		return 0;
	if (d->hops)
		return weft_cfg_fail(c, &p, "cannot be set together with xff_num_trusted_hops (%u)",
				     d->hops);
	d->n = m->xff_trusted_cidrs->n_cidrs;
	return read_cidrs(c, &q, m->xff_trusted_cidrs->cidrs, d->n, &d->trusted);
}

static int read_detect(struct weft_cfg *c, const struct weft_path *at, const msg_t *m,
		       struct weft_xff_conf *conf)
{
	size_t n = m->n_original_ip_detection_extensions;
	struct weft_xff_detect *d = weft_arena_alloc(c->arena, (n + 1) * sizeof(*d));
	int err = 0;

	conf->detect = d;
	conf->n_detect = n;
	if (!n && !conf->use_remote) {
		d->hops = conf->hops;
		conf->n_detect = 1;
	}
	for (size_t i = 0; i < n; i++) {
		struct weft_path p = {at, "original_ip_detection_extensions", (int)i},
				 t = {&p, "typed_config", -1};
		const ProtobufCMessage *x = weft_cfg_any(
			c, &t, m->original_ip_detection_extensions[i]->typed_config, NULL);

		if (!x)
			err = -EINVAL;
		else if (
			x->descriptor !=
			&envoy__extensions__http__original_ip_detection__xff__v3__xff_config__descriptor)
			err = weft_cfg_fail(c, &t, "%s is not supported; the xff extension is",
					    x->descriptor->name);
		else if (read_xff(c, &t, (const xff_msg *)x, &d[i]))
			err = -EINVAL;
	}
	if (n && conf->use_remote) {
		struct weft_path p = {at, "original_ip_detection_extensions", -1};

		err = weft_cfg_fail(c, &p, "cannot be set together with use_remote_address");
	}
	if (n && conf->hops) {
		struct weft_path p = {at, "original_ip_detection_extensions", -1};

		err = weft_cfg_fail(c, &p, "cannot be set together with xff_num_trusted_hops (%u)",
				    conf->hops);
	}
	return err;
}

int weft_xff_prepare(struct weft_cfg *c, const struct weft_path *at, const msg_t *m,
		     struct weft_xff_conf *conf)
{
	struct weft_path p = {at, "internal_address_config", -1}, q = {&p, "cidr_ranges", -1};
	int err = 0;

	conf->use_remote = weft_cfg_bool(m->use_remote_address, false);
	conf->skip_append = m->skip_xff_append;
	conf->append_port = m->append_x_forwarded_port;
	conf->mapped = m->represent_ipv4_remote_address_as_ipv4_mapped_ipv6;
	conf->hops = m->xff_num_trusted_hops;
	conf->self = *weft_xff_self();
	if (m->internal_address_config) {
		conf->internal_unix = m->internal_address_config->unix_sockets;
		conf->n_internal = m->internal_address_config->n_cidr_ranges;
		err = read_cidrs(c, &q, m->internal_address_config->cidr_ranges, conf->n_internal,
				 &conf->internal);
	}
	return read_detect(c, at, m, conf) ? -EINVAL : err;
}

const struct weft_ip *weft_xff_self(void)
{
	static struct weft_ip self;
	struct ifaddrs *v = NULL;

	if (self.family)
		return &self;
	if (getifaddrs(&v))
		v = NULL;
	for (struct ifaddrs *i = v; i && !self.family; i = i->ifa_next) {
		struct sockaddr_storage ss = {0};
		struct weft_sockaddr a;

		if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET)
			continue;
		memcpy(&ss, i->ifa_addr, sizeof(struct sockaddr_in));
		if (!weft_sockaddr_from_kernel(&ss, &a) && !weft_ip_is_loopback(&a.ip))
			self = a.ip;
	}
	freeifaddrs(v);
	if (!self.family)
		weft_ip_parse("127.0.0.1", &self);
	return &self;
}

/* ---- requests */

static const char *xff_text(const struct weft_xff_conf *conf, const struct weft_ip *ip, char *dst)
{
	char v4[WEFT_IP_TEXT];

	if (!conf->mapped || ip->family != 4)
		return weft_ip_text(ip, dst, WEFT_IP_TEXT);
	snprintf(dst, WEFT_IP_TEXT, "::ffff:%s", weft_ip_text(ip, v4, sizeof(v4)));
	return dst;
}

/* The last address in s[0..*n), which gets shorter by it. false: there is none or it is no address.
 */
static bool last_address(const char *s, size_t *n, struct weft_sockaddr *ret)
{
	size_t end = *n, from = end;
	char text[WEFT_SOCKADDR_TEXT];

	while (from && s[from - 1] != ',')
		from--;
	*n = from ? from - 1 : 0;
	while (from < end && (s[from] == ' ' || s[from] == '\t'))
		from++;
	while (end > from && (s[end - 1] == ' ' || s[end - 1] == '\t'))
		end--;
	if (end == from || end - from >= sizeof(text))
		return false;
	memcpy(text, s + from, end - from);
	text[end - from] = '\0';
	*ret = (struct weft_sockaddr){0};
	return !weft_ip_parse(text, &ret->ip);
}

/* The address `hops` from the right. *ret_single: it is the only one. */
static bool nth_address(const char *s, size_t n, uint32_t hops, struct weft_sockaddr *ret,
			bool *ret_single)
{
	size_t left = n;

	for (uint32_t i = 0; i < hops; i++) {
		while (left && s[left - 1] != ',')
			left--;
		if (!left)
			return false;
		left--;
	}
	*ret_single = !hops && !memchr(s, ',', n);
	return last_address(s, &left, ret);
}

static bool in_any(const struct weft_cidr *v, size_t n, const struct weft_ip *ip)
{
	for (size_t i = 0; i < n; i++)
		if (weft_cidr_has(&v[i], ip))
			return true;
	return false;
}

/* The first from the right that is no trusted proxy's, else the leftmost. */
static bool untrusted_address(const struct weft_xff_detect *d, const char *s, size_t n,
			      struct weft_sockaddr *ret, bool *ret_single)
{
	bool found = false;

	*ret_single = !memchr(s, ',', n);
	for (unsigned i = 0; n && i < XFF_HOPS_MAX; i++) {
		found = last_address(s, &n, ret);
		if (!found || !in_any(d->trusted, d->n, &ret->ip))
			break;
	}
	return found;
}

static void append(const struct weft_xff_conf *conf, const struct weft_io_info *io,
		   struct weft_headers *h)
{
	char text[WEFT_IP_TEXT];

	if (weft_ip_is_loopback(&io->remote.ip))
		weft_ip_text(&conf->self, text, sizeof(text));
	else if (io->remote.ip.family)
		xff_text(conf, &io->remote.ip, text);
	else
		return;
	weft_headers_append(h, WEFT_H_X_FORWARDED_FOR, text, strlen(text));
}

static void set_port(const struct weft_io_info *io, struct weft_headers *h)
{
	char text[8];

	snprintf(text, sizeof(text), "%u", io->local.port);
	weft_headers_set_id(h, WEFT_H_X_FORWARDED_PORT, text, strlen(text));
}

static void set_proto(const struct weft_io_info *io, struct weft_headers *h)
{
	weft_headers_set_id(h, WEFT_H_X_FORWARDED_PROTO, io->tls ? "https" : "http",
			    io->tls ? 5 : 4);
}

static bool from_remote(const struct weft_xff_conf *conf, const struct weft_io_info *io,
			struct weft_headers *h, struct weft_sockaddr *ret)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_X_FORWARDED_FOR);
	const char *s = f ? f->value : NULL;
	size_t n = f ? f->value_len : 0;
	bool single, found = false;

	if (conf->hops && s)
		found = nth_address(s, n, conf->hops - 1, ret, &single);
	if (!found)
		*ret = io->remote;
	if (!conf->skip_append)
		append(conf, io, h);
	if (!conf->hops || !weft_headers_get(h, WEFT_H_X_FORWARDED_PROTO))
		set_proto(io, h);
	if (conf->append_port && (!conf->hops || !weft_headers_get(h, WEFT_H_X_FORWARDED_PORT)))
		set_port(io, h);
	return !s;
}

static bool from_header(const struct weft_xff_conf *conf, const struct weft_io_info *io,
			struct weft_headers *h, struct weft_sockaddr *ret)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_X_FORWARDED_FOR);
	const char *s = f ? f->value : NULL;
	size_t n = f ? f->value_len : 0;
	bool single = false, found = false;

	for (size_t i = 0; i < conf->n_detect && !found; i++) {
		const struct weft_xff_detect *d = &conf->detect[i];

		bool known = !d->n || in_any(d->trusted, d->n, &io->remote.ip);

		single = false;
		if (!known)
			*ret = io->remote;
		found = !known || (s && (d->n ? untrusted_address(d, s, n, ret, &single)
					      : nth_address(s, n, d->hops, ret, &single)));
		/* one that is not trusted is told of itself */
		if (d->append || !known)
			append(conf, io, h);
	}
	if (!found)
		*ret = io->remote;
	return found && single;
}

static bool is_internal(const struct weft_xff_conf *conf, const struct weft_io_info *io,
			const struct weft_sockaddr *a)
{
	if (!a->ip.family) /* a client on a unix socket has no name */
		return conf->internal_unix && !io->local.ip.family;
	return in_any(conf->internal, conf->n_internal, &a->ip);
}

void weft_xff_apply(const struct weft_xff_conf *conf, const struct weft_io_info *io,
		    struct weft_headers *h, struct weft_xff_found *ret)
{
	size_t n = 0;
	const char *s = weft_headers_joined(h, "x-forwarded-for", 15, &n);
	bool trust;

	*ret = (struct weft_xff_found){0};
	if (s && s != weft_headers_value(h, WEFT_H_X_FORWARDED_FOR))
		weft_headers_set_id(h, WEFT_H_X_FORWARDED_FOR, s, n); /* several become one */
	if (conf->use_remote)
		trust = from_remote(conf, io, h, &ret->remote);
	else
		trust = from_header(conf, io, h, &ret->remote);
	if (!weft_headers_get(h, WEFT_H_X_FORWARDED_PROTO))
		set_proto(io, h);
	if (conf->append_port && !weft_headers_get(h, WEFT_H_X_FORWARDED_PORT))
		set_port(io, h);
	ret->internal = trust && is_internal(conf, io, &ret->remote);
	ret->edge = !ret->internal && conf->use_remote;
}
