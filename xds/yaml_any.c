/* google.protobuf.Any as {"@type": URL, fields...}. The message inside is kept in the marks, and
 * packed into the Any's bytes. */
#include "xds/cfg.h"
#include "xds/proto/udpa/type/v1/typed_struct.pb-c.h"
#include "xds/proto/xds/type/v3/typed_struct.pb-c.h"
#include "xds/wire.h"
#include "xds/yaml_dec.h"
#include <string.h>

/* The index of the value of a key of mapping e, or 0. */
static uint32_t value_of(const struct dec *d, const struct yev *e, const char *name)
{
	uint32_t value;

	for (uint32_t i = (uint32_t)(e - d->ev) + 1; d->ev[i].type != YEV_END;
	     i = d->ev[value].next) {
		value = d->ev[i].next;
		if (d->ev[i].type == YEV_SCALAR && !strcmp(d->ev[i].v, name))
			return value;
	}
	return 0;
}

/* Readers would not agree on which of two types is meant. */
static bool given_once(struct dec *d, const struct weft_path *at, const struct yev *e,
		       const char *name)
{
	struct weft_path sub = {at, name, -1};
	const struct yev *first = NULL;

	for (uint32_t i = (uint32_t)(e - d->ev) + 1; d->ev[i].type != YEV_END;
	     i = d->ev[d->ev[i].next].next) {
		if (d->ev[i].type != YEV_SCALAR || strcmp(d->ev[i].v, name) != 0)
			continue;
		if (first)
			return yaml_fail(d, &sub, &d->ev[i], "given twice; first at %d:%d",
					 first->line, first->col);
		first = &d->ev[i];
	}
	return true;
}

/* A URL in a mapping as a string; NULL after an error. */
static char *url_of(struct dec *d, const struct weft_path *at, const struct yev *e, const char *key)
{
	struct weft_path sub = {at, key, -1};
	uint32_t i = value_of(d, e, key);
	const struct yev *v;
	char *url = NULL;

	if (!i) {
		yaml_fail(d, at, e, "has no %s", key);
		return NULL;
	}
	v = yaml_node(d, &sub, i);
	if (!v || !given_once(d, at, e, key))
		return NULL;
	if (v->type != YEV_SCALAR)
		yaml_wrong(d, &sub, v, "a string");
	else if (yaml_value_string(d, &sub, v, false, false, &url) && !strchr(url, '/'))
		yaml_wrong(d, &sub, v, "a type such as type.googleapis.com/envoy.x.Y");
	return url && strchr(url, '/') ? url : NULL;
}

static bool is_typed_struct(const ProtobufCMessageDescriptor *desc)
{
	return desc == &xds__type__v3__typed_struct__descriptor ||
	       desc == &udpa__type__v1__typed_struct__descriptor;
}

/* No other keys than @type, value and, of a TypedStruct, type_url. */
static bool check_keys(struct dec *d, const struct weft_path *at, const struct yev *e,
		       bool typed_struct)
{
	uint32_t i = (uint32_t)(e - d->ev) + 1;
	bool ok = given_once(d, at, e, "value");

	for (; d->ev[i].type != YEV_END; i = d->ev[d->ev[i].next].next) {
		const struct yev *key = yaml_node(d, at, i);
		struct weft_path sub = {at, key ? key->v : NULL, -1};

		if (!key)
			return false;
		if (key->type == YEV_SCALAR &&
		    (!strcmp(key->v, "@type") || !strcmp(key->v, "value") ||
		     (typed_struct && (!strcmp(key->v, "type_url") || !strcmp(key->v, "typeUrl")))))
			continue;
		ok = yaml_fail(d, &sub, key, "unknown field");
	}
	return ok;
}

static bool pack(struct dec *d, const struct weft_path *at, const struct yev *e,
		 Google__Protobuf__Any *any, const ProtobufCMessage *m)
{
	struct weft_err err = {0};

	yaml_marks_set_any(d->marks, &any->base, m);
	/* a message with an error has holes, and is dropped anyway */
	if (*d->t->n_errors != d->errors_before)
		return true;
	any->value = weft_cfg_any_new(d->t->a, m)->value;
	any->has_value = true;
	/* what can be written may still be nested deeper than bytes may be */
	if (weft_wire_check(m->descriptor, any->value.data, any->value.len, false, &err) < 0)
		return yaml_fail(d, at, e, "%s", err.msg);
	return true;
}

/* {"@type": TypedStruct, type_url: X, value: {...}} is an X. */
static bool typed_struct(struct dec *d, const struct weft_path *at, const struct yev *e,
			 Google__Protobuf__Any *any)
{
	const char *key = value_of(d, e, "typeUrl") ? "typeUrl" : "type_url";
	struct weft_path sub = {at, "value", -1};
	const ProtobufCMessageDescriptor *desc;
	uint32_t i = value_of(d, e, "value");
	ProtobufCMessage *m;

	if (!check_keys(d, at, e, true))
		return false;
	any->type_url = url_of(d, at, e, key);
	if (!any->type_url)
		return false;
	desc = weft_cfg_type(any->type_url);
	if (!desc)
		return true; /* whoever reads it says so */
	m = yaml_message_new(d, desc);
	yaml_marks_message(d->marks, m, (struct weft_mark){e->line, e->col});
	if (i && !yaml_decode_into(d, &sub, i, m))
		return false;
	return pack(d, at, e, any, m);
}

bool yaml_decode_any(struct dec *d, const struct weft_path *at, const struct yev *e,
		     Google__Protobuf__Any *any)
{
	struct weft_path sub = {at, "value", -1};
	const ProtobufCMessageDescriptor *desc;
	ProtobufCMessage *m;
	uint32_t i;

	if (e->type != YEV_MAP)
		return yaml_wrong(d, at, e, "a mapping with @type");
	any->type_url = url_of(d, at, e, "@type");
	if (!any->type_url)
		return false;
	desc = weft_cfg_type(any->type_url);
	/* the extension may be optional: whoever reads it says that its type is not known */
	if (!desc)
		return true;
	if (is_typed_struct(desc))
		return typed_struct(d, at, e, any);
	m = yaml_message_new(d, desc);
	if (yaml_form_of(desc) == YAML_PLAIN) {
		yaml_decode_typed(d, at, e, m);
	} else {
		i = value_of(d, e, "value");
		if (!i)
			return yaml_fail(d, at, e, "has no value");
		if (!check_keys(d, at, e, false))
			return false;
		if (!yaml_decode_into(d, &sub, i, m))
			return false;
	}
	return pack(d, at, e, any, m);
}
