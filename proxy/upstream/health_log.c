/* Events of health checks as lines of JSON: envoy.data.core.v3.HealthCheckEvent, written as Envoy
 * writes it. */
#include "proxy/policy/match.h"
#include "proxy/upstream/health_priv.h"
#include "xds/proto/envoy/extensions/health_check/event_sinks/file/v3/file.pb-c.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef Envoy__Config__Core__V3__HealthCheck HealthCheck;
typedef Envoy__Extensions__HealthCheck__EventSinks__File__V3__HealthCheckEventFileSink FileSink;
#define FILE_SINK                                                                                  \
	envoy__extensions__health_check__event_sinks__file__v3__health_check_event_file_sink__descriptor
enum { FILES_MAX = 8, VALUE_DEPTH = 32 };

static const struct weft_event_files *files;

void weft_health_events_to(const struct weft_event_files *f)
{
	files = f;
}

/* ---- configuration */

static int one_file(struct weft_cfg *c, const struct weft_path *at, const char *path,
		    struct weft_hc_conf *ret)
{
	struct weft_err err = {0};
	void *f;

	if (ret->n_files == FILES_MAX)
		return weft_cfg_fail(c, at, "is one too many: %d files of events at most",
				     FILES_MAX);
	f = files ? files->open(path, &err) : NULL;
	if (files && !f)
		return weft_cfg_fail(c, at, "cannot be opened: %.120s", err.msg);
	if (f)
		files->close(f);
	ret->files[ret->n_files++] = weft_arena_strdup(c->arena, path);
	return 0;
}

int weft_hc_files(struct weft_cfg *c, const struct weft_path *at, const HealthCheck *m,
		  struct weft_hc_conf *ret)
{
	struct weft_path old = {at, "event_log_path", -1};
	int r = 0;

	ret->files = weft_arena_alloc(c->arena, FILES_MAX * sizeof(*ret->files));
	ret->log_failures = m->always_log_health_check_failures;
	ret->log_successes = m->always_log_health_check_success;
	if (m->event_log_path && *m->event_log_path)
		r |= one_file(c, &old, m->event_log_path, ret);
	for (size_t i = 0; i < m->n_event_logger; i++) {
		struct weft_path one = {at, "event_logger", (int)i};
		struct weft_path any = {&one, "typed_config", -1};
		struct weft_path path = {&any, "event_log_path", -1};
		const ProtobufCMessage *s =
			weft_cfg_any(c, &any, m->event_logger[i]->typed_config, &FILE_SINK);

		if (!s || one_file(c, &path, ((const FileSink *)s)->event_log_path, ret) < 0)
			r = -EINVAL;
	}
	return r < 0 ? -EINVAL : 0;
}

/* ---- events */

static json_t *of_struct(const Google__Protobuf__Struct *s, unsigned depth);

static json_t *of_value(const Google__Protobuf__Value *v, unsigned depth)
{
	json_t *list;

	switch (v && depth ? v->kind_case : GOOGLE__PROTOBUF__VALUE__KIND__NOT_SET) {
	case GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE:
		if (fabs(v->number_value) < 0x1p53 && v->number_value == floor(v->number_value))
			return json_integer((json_int_t)v->number_value);
		return json_real(v->number_value);
	case GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE:
		return json_string(v->string_value);
	case GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE:
		return json_boolean(v->bool_value);
	case GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE:
		return of_struct(v->struct_value, depth - 1);
	case GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE:
		list = json_array();
		for (size_t i = 0; i < v->list_value->n_values; i++)
			json_array_append_new(list, of_value(v->list_value->values[i], depth - 1));
		return list;
	default:
		return json_null();
	}
}

static json_t *of_struct(const Google__Protobuf__Struct *s, unsigned depth)
{
	json_t *o = json_object();

	for (size_t i = 0; s && i < s->n_fields; i++)
		json_object_set_new(o, s->fields[i]->key, of_value(s->fields[i]->value, depth));
	return o;
}

/* What is typed is left out: it is no text. */
static json_t *of_metadata(const Envoy__Config__Core__V3__Metadata *m)
{
	json_t *o = json_object();

	for (size_t i = 0; i < m->n_filter_metadata; i++)
		json_object_set_new(o, m->filter_metadata[i]->key,
				    of_struct(m->filter_metadata[i]->value, VALUE_DEPTH));
	return json_pack("{s:o, s:{}}", "filter_metadata", o, "typed_filter_metadata");
}

static json_t *of_host(const struct weft_host *h)
{
	char ip[WEFT_IP_TEXT];

	if (h->unix_path)
		return json_pack("{s:{s:s, s:i}}", "pipe", "path", h->unix_path, "mode", 0);
	return json_pack("{s:{s:s, s:s, s:i, s:s, s:b, s:s}}", "socket_address", "protocol", "TCP",
			 "address", weft_ip_text(&h->addr.ip, ip, sizeof(ip)), "port_value",
			 (int)h->addr.port, "resolver_name", "", "ipv4_compat", 0,
			 "network_namespace_filepath", "");
}

static json_t *now_text(void)
{
	struct timespec now;
	struct tm tm;
	char text[64];
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, sizeof(text) - n, ".%03ldZ", now.tv_nsec / 1000000);
	return json_string(text);
}

static const char *failure_name(enum hc_failure why)
{
	static const char *const v[] = {[HC_ACTIVE] = "ACTIVE",
					[HC_RETRIABLE] = "ACTIVE",
					[HC_PASSIVE] = "PASSIVE",
					[HC_NETWORK] = "NETWORK",
					[HC_TIMEOUT] = "NETWORK_TIMEOUT"};

	return v[why];
}

static json_t *what(const struct check *c, enum hc_event ev, enum hc_failure why)
{
	switch (ev) {
	case HC_EVENT_EJECT:
		return json_pack("{s:s}", "failure_type", failure_name(why));
	case HC_EVENT_ADD:
		return json_pack("{s:b}", "first_check", (int)c->first);
	case HC_EVENT_FAILURE:
		return json_pack("{s:s, s:b}", "failure_type", failure_name(why), "first_check",
				 (int)c->first);
	default:
		return json_object();
	}
}

/* Members in the order of the message's fields. */
static json_t *event(const struct check *c, enum hc_event ev, enum hc_failure why)
{
	static const char *const names[] = {[HC_EVENT_EJECT] = "eject_unhealthy_event",
					    [HC_EVENT_ADD] = "add_healthy_event",
					    [HC_EVENT_FAILURE] = "health_check_failure_event",
					    [HC_EVENT_DEGRADED] = "degraded_healthy_host",
					    [HC_EVENT_RESTORED] = "no_longer_degraded_host",
					    [HC_EVENT_SUCCESS] = "successful_health_check_event"};
	static const char *const kinds[] = {
		[HC_HTTP] = "HTTP", [HC_TCP] = "TCP", [HC_GRPC] = "GRPC"};
	static const struct weft_locality nowhere = {"", "", ""};
	const struct weft_locality *at = c->locality ? c->locality : &nowhere;
	json_t *o = json_pack("{s:s, s:o, s:s}", "health_checker_type", kinds[c->h->conf->kind],
			      "host", of_host(c->host), "cluster_name", c->h->cl->name);

	if (ev <= HC_EVENT_ADD)
		json_object_set_new(o, names[ev], what(c, ev, why));
	json_object_set_new(o, "timestamp", now_text());
	if (ev > HC_EVENT_ADD && ev < HC_EVENT_SUCCESS)
		json_object_set_new(o, names[ev], what(c, ev, why));
	if (c->metadata)
		json_object_set_new(o, "metadata", of_metadata(c->metadata));
	json_object_set_new(o, "locality",
			    json_pack("{s:s, s:s, s:s}", "region", at->region, "zone", at->zone,
				      "sub_zone", at->sub_zone));
	if (ev == HC_EVENT_SUCCESS)
		json_object_set_new(o, names[ev], what(c, ev, why));
	return o;
}

void weft_check_tell(const struct check *c, enum hc_event ev, enum hc_failure why)
{
	json_t *o;
	char *text;
	size_t n;

	if (!c->h->n_files)
		return;
	o = event(c, ev, why);
	text = json_dumps(o, JSON_COMPACT | JSON_PRESERVE_ORDER);
	json_decref(o);
	n = strlen(text);
	text[n++] = '\n'; /* over the end: a line goes in one piece, and it is not text any more */
	for (size_t i = 0; i < c->h->n_files; i++)
		files->put(c->h->files[i], text, n);
	free(text);
}

void weft_hc_files_open(struct weft_health *h)
{
	const struct weft_hc_conf *k = h->conf;

	h->files = files && k->n_files ? weft_xcalloc(k->n_files, sizeof(*h->files)) : NULL;
	for (size_t i = 0; h->files && i < k->n_files; i++) {
		void *f = files->open(k->files[i], NULL);

		if (f)
			h->files[h->n_files++] = f;
	}
}

void weft_hc_files_close(struct weft_health *h)
{
	for (size_t i = 0; i < h->n_files; i++)
		files->close(h->files[i]);
	free(h->files);
}
