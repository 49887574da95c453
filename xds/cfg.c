#include "xds/cfg.h"
#include "xds/proto/udpa/type/v1/typed_struct.pb-c.h"
#include "xds/proto/xds/type/v3/typed_struct.pb-c.h"
#include "xds/wire.h"
#include "xds/yaml_priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int weft_cfg_fail(struct weft_cfg *c, const struct weft_path *at, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	weft_vfail(weft_errs_next(c->errs), at, EINVAL, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

void weft_cfg_warn(struct weft_cfg *c, const struct weft_path *at, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	weft_vfail(weft_errs_next(c->warns), at, EINVAL, fmt, ap);
	va_end(ap);
}

/* Errors found in a part keep their path behind that of the part. */
static void add_under(struct weft_cfg *c, const struct weft_path *at, const struct weft_err *e)
{
	struct weft_path sub = {at, e->path, -1};

	weft_cfg_fail(c, e->path[0] ? &sub : at, "%s", e->msg);
}

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *reterr)
{
	return ctx;
}

/* A Struct as the message of the named type: by way of its JSON text. */
static const ProtobufCMessage *from_struct(struct weft_cfg *c, const struct weft_path *at,
					   const char *type_url,
					   const Google__Protobuf__Struct *value)
{
	static const Google__Protobuf__Struct empty = {
		.base = PROTOBUF_C_MESSAGE_INIT(&google__protobuf__struct__descriptor)};
	const ProtobufCMessageDescriptor *d = weft_cfg_type(type_url);
	struct weft_errs errs = {0};
	struct weft_yaml_doc *docs;
	size_t n;
	char *text;

	if (!d) {
		weft_cfg_fail(c, at, "type %.120s is not supported", type_url ? type_url : "");
		return NULL;
	}
	text = weft_yaml_encode(value ? &value->base : &empty.base, true);
	weft_yaml_decode(c->arena, "", text, strlen(text), pick, (void *)d, &docs, &n, &errs);
	free(text);
	for (int i = 0; i < errs.n; i++)
		add_under(c, at, &errs.v[i]);
	if (errs.n || n != 1)
		return NULL;
	/* what its own Anys hold is known there */
	if (c->decoded)
		yaml_marks_join(c->decoded, docs[0].marks);
	return docs[0].msg;
}

static const ProtobufCMessage *open_typed(struct weft_cfg *c, const struct weft_path *at,
					  const ProtobufCMessage *m)
{
	if (m->descriptor == &xds__type__v3__typed_struct__descriptor) {
		const Xds__Type__V3__TypedStruct *t = (const Xds__Type__V3__TypedStruct *)m;

		return from_struct(c, at, t->type_url, t->value);
	}
	if (m->descriptor == &udpa__type__v1__typed_struct__descriptor) {
		const Udpa__Type__V1__TypedStruct *t = (const Udpa__Type__V1__TypedStruct *)m;

		return from_struct(c, at, t->type_url, t->value);
	}
	return m;
}

static const ProtobufCMessage *decode(struct weft_cfg *c, const struct weft_path *at,
				      const Google__Protobuf__Any *any)
{
	const char *url = any->type_url ? any->type_url : "", *near;
	const ProtobufCMessageDescriptor *d = weft_cfg_type(url);
	struct weft_err err = {0};
	const ProtobufCMessage *m;

	if (!*url) {
		weft_cfg_fail(c, at, "has no @type");
		return NULL;
	}
	if (!d) {
		near = weft_cfg_type_near(url);
		weft_cfg_fail(c, at, "type %.120s is not supported%s%s%s", url,
			      near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
		return NULL;
	}
	m = weft_wire_unpack(c->arena, d, any->value.data, any->value.len, true, &err);
	if (!m) {
		add_under(c, at, &err);
		return NULL;
	}
	return open_typed(c, at, m);
}

const ProtobufCMessage *weft_cfg_any(struct weft_cfg *c, const struct weft_path *at,
				     const Google__Protobuf__Any *any,
				     const ProtobufCMessageDescriptor *want)
{
	const ProtobufCMessage *m = NULL;

	if (!any) {
		weft_cfg_fail(c, at, "is required");
		return NULL;
	}
	if (c->marks)
		m = yaml_marks_any(c->marks, any);
	if (!m && c->decoded)
		m = yaml_marks_any(c->decoded, any);
	if (!m) {
		if (!c->decoded)
			c->decoded = yaml_marks_new(c->arena, (struct weft_mark){0, 0});
		m = decode(c, at, any);
		if (m)
			yaml_marks_set_any(c->decoded, &any->base, m);
	}
	if (m && want && m->descriptor != want) {
		weft_cfg_fail(c, at, "must be of type %s, is %s", want->name, m->descriptor->name);
		return NULL;
	}
	return m;
}

int64_t weft_cfg_ms(const Google__Protobuf__Duration *d, int64_t dflt)
{
	const int64_t max = INT64_MAX / 1000 - 1;
	int64_t s;

	if (!d)
		return dflt;
	s = d->seconds < -max ? -max : d->seconds > max ? max : d->seconds;
	return s * 1000 + d->nanos / 1000000 + (d->nanos % 1000000 > 0);
}

uint32_t weft_cfg_u32(const Google__Protobuf__UInt32Value *v, uint32_t dflt)
{
	return v ? v->value : dflt;
}

bool weft_cfg_bool(const Google__Protobuf__BoolValue *v, bool dflt)
{
	return v ? v->value : dflt;
}
