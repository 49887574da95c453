#include "proxy/codec/hbone.h"
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { TRACEPARENT_LEN = 55, TRACE_ID_LEN = 32, DNS_LABEL_MAX = 63 };

/* A value that embeds a NUL is none: the rest of the code sees C strings. */
static const char *get(const struct weft_h2_headers *h, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < h->n; i++)
		if (h->v[i].name_len == len && !memcmp(h->v[i].name, name, len))
			return strlen(h->v[i].value) == h->v[i].value_len ? h->v[i].value : NULL;
	return NULL;
}

static bool is_digits(const char *s, size_t n)
{
	return n && strspn(s, "0123456789") >= n;
}

static int port_parse(const char *s, uint16_t *ret)
{
	size_t n = strlen(s);
	unsigned v = 0;

	if (n > 5 || !is_digits(s, n) || *s == '0')
		return -EINVAL;
	for (; *s; s++)
		v = v * 10 + (unsigned)(*s - '0');
	if (v > 65535)
		return -EINVAL;
	*ret = (uint16_t)v;
	return 0;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* A DNS name, which cannot be taken for an address: its last label is not a number. Writes it in
 * lower case. */
static int host_parse(const char *s, size_t n, char dst[WEFT_HBONE_HOST_MAX + 1])
{
	size_t label = 0;

	if (!n || n > WEFT_HBONE_HOST_MAX)
		return -EINVAL;
	for (size_t i = 0; i <= n; i++) {
		if (i == n || s[i] == '.') {
			if (i == label || i - label > DNS_LABEL_MAX || s[label] == '-' ||
			    s[i - 1] == '-')
				return -EINVAL;
			if (i == n && s[label] >= '0' && s[label] <= '9' &&
			    (is_digits(s + label, i - label) || lower(s[label + 1]) == 'x'))
				return -EINVAL;
			label = i + 1;
		} else if (!isalnum((unsigned char)s[i]) && s[i] != '-' && s[i] != '_') {
			return -EINVAL;
		}
	}
	for (size_t i = 0; i < n; i++)
		dst[i] = lower(s[i]);
	dst[n] = '\0';
	return 0;
}

static int authority_parse(const char *s, struct weft_hbone_request *r)
{
	const char *colon = strrchr(s, ':');

	if (!weft_sockaddr_parse(s, &r->addr))
		return 0;
	if (!colon || port_parse(colon + 1, &r->port) ||
	    host_parse(s, (size_t)(colon - s), r->host))
		return -EINVAL;
	r->by_host = true;
	return 0;
}

/* The first part that starts with host=, quotes optional; a label for metrics, so what is odd is
 * left out. */
static void forwarded_parse(const char *s, char dst[WEFT_HBONE_HOST_MAX + 1])
{
	while (*s) {
		size_t n = strcspn(s, ";");
		const char *p = s + strspn(s, " \t");

		if (p < s + n && !strncasecmp(p, "host=", 5)) {
			const char *v = p + 5, *end = s + n;

			while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
				end--;
			if (end - v >= 2 && *v == '"' && end[-1] == '"') {
				v++;
				end--;
			}
			if (host_parse(v, (size_t)(end - v), dst))
				dst[0] = '\0';
			return;
		}
		s += n + (s[n] == ';');
	}
}

static bool is_hex(const char *s, size_t n)
{
	return strspn(s, "0123456789abcdef") >= n;
}

static bool is_traceparent(const char *s)
{
	return strlen(s) == TRACEPARENT_LEN && is_hex(s, 2) && s[2] == '-' &&
	       is_hex(s + 3, TRACE_ID_LEN) && s[35] == '-' && is_hex(s + 36, 16) && s[52] == '-' &&
	       is_hex(s + 53, 2) && strspn(s + 3, "0") < TRACE_ID_LEN;
}

int weft_hbone_parse(const struct weft_h2_headers *h, struct weft_hbone_request *ret)
{
	const char *method = get(h, ":method"), *authority = get(h, ":authority"), *v;

	memset(ret, 0, sizeof(*ret));
	if (!method || strcmp(method, "CONNECT") || !authority || get(h, ":scheme") ||
	    get(h, ":path") || get(h, ":protocol") || authority_parse(authority, ret))
		return -EINVAL;
	v = get(h, "forwarded");
	if (v)
		forwarded_parse(v, ret->forwarded_host);
	v = get(h, "traceparent");
	if (v && is_traceparent(v))
		snprintf(ret->trace_id, sizeof(ret->trace_id), "%.*s", TRACE_ID_LEN, v + 3);
	v = get(h, "baggage");
	if (v)
		weft_baggage_parse(v, &ret->baggage);
	return 0;
}

/* ---- baggage */

static const struct {
	const char *key;
	size_t at;
} baggage_fields[] = {
	{"k8s.cluster.name", offsetof(struct weft_baggage, cluster)},
	{"k8s.namespace.name", offsetof(struct weft_baggage, ns)},
	{NULL, offsetof(struct weft_baggage, workload)}, /* k8s.<type>.name */
	{"service.name", offsetof(struct weft_baggage, service)},
	{"service.version", offsetof(struct weft_baggage, version)},
	{"cloud.region", offsetof(struct weft_baggage, region)},
	{"cloud.availability_zone", offsetof(struct weft_baggage, zone)},
};
enum { BAGGAGE_FIELDS = sizeof(baggage_fields) / sizeof(baggage_fields[0]) };
static const char *const workload_types[] = {"deployment", "cronjob", "pod", "job"};

/* Goes into logs and metrics: visible ASCII without what separates items or quotes. */
static bool is_label(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i] <= ' ' || s[i] > '~' || strchr(",=\"\\;", s[i]))
			return false;
	return n && n <= WEFT_HBONE_LABEL_MAX;
}

static bool is_type_key(const char *key, size_t n, const char *type)
{
	char want[32];

	snprintf(want, sizeof(want), "k8s.%s.name", type);
	return strlen(want) == n && !memcmp(want, key, n);
}

static char *field_of(struct weft_baggage *b, const char *key, size_t n)
{
	for (size_t i = 0; i < BAGGAGE_FIELDS; i++) {
		const char *k = baggage_fields[i].key;

		if (k && strlen(k) == n && !memcmp(k, key, n))
			return (char *)b + baggage_fields[i].at;
	}
	for (size_t i = 0; i < sizeof(workload_types) / sizeof(workload_types[0]); i++)
		if (is_type_key(key, n, workload_types[i])) {
			snprintf(b->workload_type, sizeof(b->workload_type), "%s",
				 workload_types[i]);
			return b->workload;
		}
	return NULL;
}

static void item_parse(const char *s, size_t n, struct weft_baggage *b)
{
	const char *eq = memchr(s, '=', n), *v, *second;
	char *dst;
	size_t len;

	if (!eq)
		return;
	v = eq + 1;
	len = (size_t)(s + n - v);
	second = memchr(v, '=', len); /* a third piece is dropped */
	if (second)
		len = (size_t)(second - v);
	if (!is_label(v, len))
		return;
	dst = field_of(b, s, (size_t)(eq - s));
	if (!dst)
		return;
	memcpy(dst, v, len);
	dst[len] = '\0';
}

void weft_baggage_parse(const char *s, struct weft_baggage *ret)
{
	memset(ret, 0, sizeof(*ret));
	while (*s) {
		size_t n = strcspn(s, ","), skip = strspn(s, " \t"), len = n;

		while (len > skip && (s[len - 1] == ' ' || s[len - 1] == '\t'))
			len--;
		if (len > skip)
			item_parse(s + skip, len - skip, ret);
		s += n + (s[n] == ',');
	}
}

/* Whole items only: what does not fit, or could not be read back, is left out. */
size_t weft_baggage_text(const struct weft_baggage *b, char *dst, size_t cap)
{
	size_t used = 0;

	if (cap)
		dst[0] = '\0';
	for (size_t i = 0; i < BAGGAGE_FIELDS; i++) {
		const char *v = (const char *)b + baggage_fields[i].at;
		const char *type = b->workload_type[0] ? b->workload_type : "pod";
		char key[40];
		size_t need;

		if (!is_label(v, strlen(v)))
			continue;
		if (baggage_fields[i].key)
			snprintf(key, sizeof(key), "%s", baggage_fields[i].key);
		else
			snprintf(key, sizeof(key), "k8s.%s.name", type);
		need = (used ? 1 : 0) + strlen(key) + 1 + strlen(v);
		if (used + need >= cap)
			continue;
		snprintf(dst + used, cap - used, "%s%s=%s", used ? "," : "", key, v);
		used += need;
	}
	return used;
}

/* ---- writing */

static int put(struct weft_hbone_text *t, size_t *used, const char *name, size_t value_len)
{
	if (t->n == WEFT_HBONE_HEADERS || *used + value_len + 1 > sizeof(t->buf))
		return -ENOSPC;
	t->v[t->n++] = (struct weft_h2_header){
		.name = name,
		.value = t->buf + *used,
		.name_len = strlen(name),
		.value_len = value_len,
	};
	*used += value_len + 1;
	return 0;
}

static int put_text(struct weft_hbone_text *t, size_t *used, const char *name, const char *value)
{
	size_t n = strlen(value);

	if (*used + n + 1 > sizeof(t->buf))
		return -ENOSPC;
	memcpy(t->buf + *used, value, n + 1);
	return put(t, used, name, n);
}

static int put_forwarded(struct weft_hbone_text *t, size_t *used, const struct weft_sockaddr *from,
			 const char *host)
{
	char addr[WEFT_SOCKADDR_TEXT], text[WEFT_HBONE_HOST_MAX + WEFT_SOCKADDR_TEXT + 32];
	int n = 0;

	if (from)
		n = snprintf(text, sizeof(text), "for=\"%s\"",
			     weft_sockaddr_text(from, addr, sizeof(addr)));
	if (host)
		snprintf(text + n, sizeof(text) - (size_t)n, "%shost=%s", n ? ";" : "", host);
	return put_text(t, used, "forwarded", text);
}

int weft_hbone_write(struct weft_hbone_text *t, const char *authority, const struct weft_baggage *b,
		     const struct weft_sockaddr *forwarded_for, const char *forwarded_host,
		     const char *traceparent)
{
	struct weft_hbone_request check = {0};
	char host[WEFT_HBONE_HOST_MAX + 1];
	size_t used = 0, n;
	int r;

	t->n = 0;
	if (authority_parse(authority, &check) || (traceparent && !is_traceparent(traceparent)) ||
	    (forwarded_host && host_parse(forwarded_host, strlen(forwarded_host), host)))
		return -EINVAL;
	r = put_text(t, &used, ":method", "CONNECT");
	if (!r)
		r = put_text(t, &used, ":authority", authority);
	if (!r && b) {
		n = weft_baggage_text(b, t->buf + used, sizeof(t->buf) - used);
		if (n)
			r = put(t, &used, "baggage", n);
	}
	if (!r && (forwarded_for || forwarded_host))
		r = put_forwarded(t, &used, forwarded_for, forwarded_host ? host : NULL);
	if (!r && traceparent)
		r = put_text(t, &used, "traceparent", traceparent);
	return r;
}
