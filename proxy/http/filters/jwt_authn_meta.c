/* The JSON of tokens as dynamic metadata. Its nesting is bounded (WEFT_JWT_DEPTH_MAX). */
#include "proxy/http/filters/jwt_authn_priv.h"
#include "xds/wire.h"

#include <string.h>

static Google__Protobuf__Struct *struct_of(struct weft_arena *a, const json_t *o)
{
	Google__Protobuf__Struct *s = weft_arena_alloc(a, sizeof(*s));
	const char *key;
	json_t *v;

	weft_message_init(&google__protobuf__struct__descriptor, s);
	json_object_foreach((json_t *)o, key, v) weft_struct_set(a, s, key, jwt_value(a, v));
	return s;
}

static Google__Protobuf__Value *string_value(struct weft_arena *a, const char *s, size_t n)
{
	Google__Protobuf__Value *v = weft_arena_alloc(a, sizeof(*v));

	weft_message_init(&google__protobuf__value__descriptor, v);
	v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
	v->string_value = weft_arena_strndup(a, s, n);
	return v;
}

static Google__Protobuf__Value *list_value(struct weft_arena *a, size_t n)
{
	Google__Protobuf__Value *v = weft_arena_alloc(a, sizeof(*v));
	Google__Protobuf__ListValue *l = weft_arena_alloc(a, sizeof(*l));

	weft_message_init(&google__protobuf__value__descriptor, v);
	weft_message_init(&google__protobuf__list_value__descriptor, l);
	v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE;
	v->list_value = l;
	l->values = weft_arena_alloc(a, (n ?: 1) * sizeof(*l->values));
	return v;
}

Google__Protobuf__Value *jwt_value(struct weft_arena *a, const json_t *j)
{
	Google__Protobuf__Value *v;

	if (json_is_string(j))
		return string_value(a, json_string_value(j), json_string_length(j));
	if (json_is_array(j)) {
		v = list_value(a, json_array_size(j));
		for (size_t i = 0; i < json_array_size(j); i++)
			v->list_value->values[v->list_value->n_values++] =
				jwt_value(a, json_array_get(j, i));
		return v;
	}
	v = weft_arena_alloc(a, sizeof(*v));
	weft_message_init(&google__protobuf__value__descriptor, v);
	if (json_is_object(j)) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
		v->struct_value = struct_of(a, j);
	} else if (json_is_number(j)) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE;
		v->number_value = json_number_value(j);
	} else if (json_is_boolean(j)) {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE;
		v->bool_value = json_is_true(j);
	} else {
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE;
	}
	return v;
}

static Google__Protobuf__Value *words(struct weft_arena *a, const char *s)
{
	Google__Protobuf__Value *v = list_value(a, strlen(s) / 2 + 1);
	size_t n;

	for (s += strspn(s, " "); *s; s += n, s += strspn(s, " ")) {
		n = strcspn(s, " ");
		v->list_value->values[v->list_value->n_values++] = string_value(a, s, n);
	}
	return v;
}

const Google__Protobuf__Value *jwt_payload(struct weft_arena *a, const struct jwt_provider *p,
					   const json_t *payload)
{
	Google__Protobuf__Value *v = jwt_value(a, payload);

	for (size_t i = 0; i < p->spaced.n; i++) {
		const json_t *c = json_object_get(payload, p->spaced.v[i]);

		if (json_is_string(c))
			weft_struct_set(a, v->struct_value, p->spaced.v[i],
					words(a, json_string_value(c)));
	}
	return v;
}
