#include "xds/yaml_priv.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

bool yaml_is_kube(const ProtobufCMessageDescriptor *d)
{
	return d->package_name[0] == 'w' && !strcmp(d->package_name, "weft.kube");
}

bool yaml_is_envoy(const ProtobufCMessageDescriptor *d)
{
	const char *p = d->package_name;

	return (!strncmp(p, "envoy.", 6) && strstr(p, ".v3")) || !strncmp(p, "xds.", 4) ||
	       !strncmp(p, "udpa.", 5) || !strncmp(p, "google.", 7);
}

/* snake_case to lowerCamelCase; Kubernetes writes a last word ip or ips as IP, IPs. */
static const char *camel(const char *from, bool kube, char dst[YAML_NAME_MAX])
{
	size_t n = 0;
	bool up = false;

	for (const char *p = from; *p && n + 1 < YAML_NAME_MAX; p++) {
		if (*p == '_') {
			up = true;
			continue;
		}
		if (up && kube && (!strcmp(p, "ip") || !strcmp(p, "ips")) &&
		    n + 4 < YAML_NAME_MAX) {
			memcpy(dst + n, "IPs", 3);
			n += strlen(p);
			break;
		}
		dst[n++] = up ? (char)toupper((unsigned char)*p) : *p;
		up = false;
	}
	dst[n] = '\0';
	return dst;
}

const char *yaml_field_name(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
			    char dst[YAML_NAME_MAX])
{
	return yaml_is_envoy(d) ? f->name : camel(f->name, yaml_is_kube(d), dst);
}

const ProtobufCFieldDescriptor *yaml_field_find(const ProtobufCMessageDescriptor *d,
						const char *key)
{
	const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(d, key);
	char name[YAML_NAME_MAX];
	bool kube;

	if (f)
		return f;
	kube = yaml_is_kube(d);
	for (unsigned i = 0; i < d->n_fields; i++) {
		f = &d->fields[i];
		if (f->name[0] == key[0] && strchr(f->name, '_') && /* both forms begin alike */
		    !strcmp(camel(f->name, kube, name), key))
			return f;
	}
	return NULL;
}

/* protobuf-c does not mark maps; the compiler gives their entries a name and two fields. */
bool yaml_is_map(const ProtobufCFieldDescriptor *f)
{
	const ProtobufCMessageDescriptor *d = f->descriptor;
	size_t n;

	if (f->type != PROTOBUF_C_TYPE_MESSAGE || f->label != PROTOBUF_C_LABEL_REPEATED)
		return false;
	n = strlen(d->short_name);
	return d->n_fields == 2 && n > 5 && !strcmp(d->short_name + n - 5, "Entry") &&
	       !strcmp(d->fields[0].name, "key") && !strcmp(d->fields[1].name, "value");
}

bool weft_yaml_is_map(const ProtobufCFieldDescriptor *f)
{
	return yaml_is_map(f);
}

enum yaml_form yaml_form_of(const ProtobufCMessageDescriptor *d)
{
	static const struct {
		const char *name;
		enum yaml_form form;
	} forms[] = {{"Duration", YAML_DURATION},
		     {"Timestamp", YAML_TIMESTAMP},
		     {"Any", YAML_ANY},
		     {"BoolValue", YAML_WRAPPER},
		     {"StringValue", YAML_WRAPPER},
		     {"BytesValue", YAML_WRAPPER},
		     {"Int32Value", YAML_WRAPPER},
		     {"Int64Value", YAML_WRAPPER},
		     {"UInt32Value", YAML_WRAPPER},
		     {"UInt64Value", YAML_WRAPPER},
		     {"FloatValue", YAML_WRAPPER},
		     {"DoubleValue", YAML_WRAPPER},
		     {"Struct", YAML_STRUCT},
		     {"Value", YAML_VALUE},
		     {"ListValue", YAML_VALUES}};

	if (d->package_name[0] != 'g' || strcmp(d->package_name, "google.protobuf") != 0)
		return YAML_PLAIN;
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		if (!strcmp(d->short_name, forms[i].name))
			return forms[i].form;
	return YAML_PLAIN;
}

static const struct {
	const char *message, *field, *why;
} without_effect[] = {
#define WITHOUT_EFFECT(message_, field_, why_) {message_, field_, why_},
#include "xds/without_effect.def"
#undef WITHOUT_EFFECT
};

const char *yaml_without_effect(const char *message, const char *field)
{
	for (size_t i = 0; i < sizeof(without_effect) / sizeof(without_effect[0]); i++)
		if (!strcmp(without_effect[i].message, message) &&
		    !strcmp(without_effect[i].field, field))
			return without_effect[i].why;
	return NULL;
}
