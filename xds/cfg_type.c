/* Types an Any may name. */
#include "xds/cfg.h"
#include "xds/wire.h"
#include <stdlib.h>
#include <string.h>

#define ANY_TYPE(name_, desc_) extern const ProtobufCMessageDescriptor desc_;
#include "xds/any_types.def"
#undef ANY_TYPE

static const struct any_type {
	const char *name;
	const ProtobufCMessageDescriptor *desc;
} types[] = {
#define ANY_TYPE(name_, desc_) {name_, &desc_},
#include "xds/any_types.def"
#undef ANY_TYPE
};
enum { TYPES = sizeof(types) / sizeof(types[0]) };

static int by_name(const void *key, const void *v)
{
	return strcmp(key, ((const struct any_type *)v)->name);
}

const ProtobufCMessageDescriptor *weft_cfg_type(const char *type_url)
{
	const char *slash = type_url ? strrchr(type_url, '/') : NULL;
	const struct any_type *t =
		slash ? bsearch(slash + 1, types, TYPES, sizeof(types[0]), by_name) : NULL;

	return t ? t->desc : NULL;
}

const ProtobufCMessageDescriptor *weft_cfg_types(size_t i, const char **ret_name)
{
	if (i >= TYPES)
		return NULL;
	if (ret_name)
		*ret_name = types[i].name;
	return types[i].desc;
}

static const char *last_word(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot ? dot + 1 : name;
}

/* By the last word: full names are long, and people mistake the version or the folder. */
const char *weft_cfg_type_near(const char *type_url)
{
	const char *slash = strrchr(type_url, '/'), *words[TYPES], *near;

	for (size_t i = 0; i < TYPES; i++)
		words[i] = last_word(types[i].name);
	near = weft_suggest(last_word(slash ? slash + 1 : type_url), words, TYPES);
	for (size_t i = 0; near && i < TYPES; i++)
		if (words[i] == near)
			return types[i].name;
	return NULL;
}

Google__Protobuf__Any *weft_cfg_any_new(struct weft_arena *a, const ProtobufCMessage *m)
{
	Google__Protobuf__Any *any = weft_arena_alloc(a, sizeof(*any));

	weft_message_init(&google__protobuf__any__descriptor, any);
	any->type_url = weft_arena_printf(a, "type.googleapis.com/%s", m->descriptor->name);
	any->value.len = protobuf_c_message_get_packed_size(m);
	any->value.data = weft_arena_alloc(a, any->value.len + 1);
	any->has_value = true;
	protobuf_c_message_pack(m, any->value.data);
	return any;
}
