/* The bootstrap file: read, merged, checked. */
#include "proxy/waypoint/waypoint.h"

#include "proxy/upstream/dns_default.h"
#include "proxy/waypoint/overload.h"
#include "xds/proto/envoy/extensions/regex_engines/v3/google_re2.pb-c.h"
#include "xds/wire.h"
#include "xds/yaml.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef Envoy__Config__Bootstrap__V3__Bootstrap boot_msg;

static const ProtobufCMessageDescriptor *pick(void *ctx, const char *api_version, const char *kind,
					      bool *ret_lenient, struct weft_err *reterr)
{
	if (*kind) {
		weft_fail(reterr, NULL, EINVAL,
			  "must be an Envoy bootstrap, is a %s object of Kubernetes: weftctl "
			  "validate "
			  "reads those",
			  kind);
		return NULL;
	}
	*ret_lenient = false;
	return &envoy__config__bootstrap__v3__bootstrap__descriptor;
}

static char *slurp(const char *path, size_t *ret_n, struct weft_errs *errs)
{
	struct weft_err *e;
	struct stat st;
	char *text = NULL;
	ssize_t n = -1;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd >= 0 && !fstat(fd, &st)) {
		if (st.st_size > WEFT_YAML_BYTES_MAX) {
			errno = EFBIG;
		} else if (S_ISDIR(st.st_mode)) {
			errno = EISDIR;
		} else {
			ssize_t cap = S_ISREG(st.st_mode) ? st.st_size : WEFT_YAML_BYTES_MAX;

			text = weft_xcalloc(1, (size_t)cap + 1);
			for (n = 0; n < cap;) {
				ssize_t k = read(fd, text + n, (size_t)(cap - n));

				if (k < 0)
					n = -1;
				if (k <= 0)
					break;
				n += k;
			}
		}
	}
	if (n < 0 && (e = weft_errs_next(errs)) != NULL) {
		weft_fail(e, NULL, errno ? errno : EIO, "%s", strerror(errno));
		snprintf(e->where, sizeof(e->where), "%s", path);
	}
	if (fd >= 0)
		close(fd);
	if (n < 0) {
		free(text);
		return NULL;
	}
	*ret_n = (size_t)n;
	return text;
}

/* One document. NULL: errors were added. */
static const struct weft_yaml_doc *decode(struct weft_arena *a, const char *name, const char *text,
					  size_t n, struct weft_errs *errs, int *ret_bad)
{
	struct weft_yaml_doc *docs;
	size_t n_docs = 0;
	struct weft_err *e;

	/* what is broken does not keep the rest from being looked at */
	*ret_bad += weft_yaml_decode_partial(a, name, text, n, pick, NULL, &docs, &n_docs, errs);
	if (n_docs == 1)
		return &docs[0];
	if (*ret_bad)
		return NULL;
	e = weft_errs_next(errs);
	if (e) {
		weft_fail(e, NULL, EINVAL, "must have one document, has %zu", n_docs);
		snprintf(e->where, sizeof(e->where), "%s", name);
	}
	return NULL;
}

/* As protobuf merges: scalars of the second win, lists are joined. */
static const boot_msg *merge(struct bootstrap *b, const ProtobufCMessage *x,
			     const ProtobufCMessage *y)
{
	size_t nx = protobuf_c_message_get_packed_size(x),
	       ny = protobuf_c_message_get_packed_size(y);
	uint8_t *p = weft_arena_alloc(b->arena, nx + ny + 1);
	ProtobufCAllocator al = weft_wire_allocator(b->arena);

	protobuf_c_message_pack(x, p);
	protobuf_c_message_pack(y, p + nx);
	return (const boot_msg *)protobuf_c_message_unpack(
		&envoy__config__bootstrap__v3__bootstrap__descriptor, &al, nx + ny, p);
}

static int runtime(struct weft_cfg *c, struct bootstrap *b)
{
	const Envoy__Config__Bootstrap__V3__LayeredRuntime *rt = b->msg->layered_runtime;
	struct weft_path pr = {NULL, "layered_runtime", -1};
	size_t i, k;
	int err = 0;

	for (i = 0; rt && i < rt->n_layers; i++) {
		struct weft_path pl = {&pr, "layers", (int)i}, ps = {&pl, "static_layer", -1};
		const Google__Protobuf__Struct *s;

		if (rt->layers[i]->layer_specifier_case !=
		    ENVOY__CONFIG__BOOTSTRAP__V3__RUNTIME_LAYER__LAYER_SPECIFIER_STATIC_LAYER)
			continue;
		s = rt->layers[i]->static_layer;
		for (k = 0; k < s->n_fields; k++) {
			const char *key = s->fields[k]->key;
			const Google__Protobuf__Value *v = s->fields[k]->value;

			if (strcmp(key, "overload.global_downstream_max_connections")) {
				err = weft_cfg_fail(c, &ps,
						    "the runtime key \"%.80s\" is not supported; "
						    "overload.global_downstream_max_connections is",
						    key);
			} else if (!v ||
				   v->kind_case != GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE ||
				   v->number_value < 0 || v->number_value > 1e15) {
				err = weft_cfg_fail(c, &ps, "%s must be a number from 0 on", key);
			} else {
				b->max_connections = (uint64_t)v->number_value;
			}
		}
	}
	return err;
}

/* The one engine there is takes the place of re2. */
static int regex_engine(struct weft_cfg *c, const boot_msg *m)
{
	struct weft_path p = {NULL, "default_regex_engine", -1}, pt = {&p, "typed_config", -1};
	const ProtobufCMessage *any;

	if (!m->default_regex_engine)
		return 0;
	any = weft_cfg_any(c, &pt, m->default_regex_engine->typed_config, NULL);
	if (!any)
		return -EINVAL;
	if (any->descriptor != &envoy__extensions__regex_engines__v3__google_re2__descriptor)
		return weft_cfg_fail(c, &pt, "%s is not a regex engine that is supported",
				     any->descriptor->name);
	return 0;
}

/* What the command line says of the node. */
static void node_options(struct bootstrap *b, const struct waypoint_options *opt)
{
	boot_msg *m = (boot_msg *)b->msg;

	if (!opt->node_id && !opt->node_cluster && !opt->node_zone)
		return;
	if (!m->node) {
		m->node = weft_arena_alloc(b->arena, sizeof(*m->node));
		weft_message_init(&envoy__config__core__v3__node__descriptor, m->node);
	}
	if (opt->node_id)
		m->node->id = weft_arena_strdup(b->arena, opt->node_id);
	if (opt->node_cluster)
		m->node->cluster = weft_arena_strdup(b->arena, opt->node_cluster);
	if (opt->node_zone) {
		if (!m->node->locality) {
			m->node->locality = weft_arena_alloc(b->arena, sizeof(*m->node->locality));
			weft_message_init(&envoy__config__core__v3__locality__descriptor,
					  m->node->locality);
		}
		m->node->locality->zone = weft_arena_strdup(b->arena, opt->node_zone);
	}
}

void bootstrap_place(const struct bootstrap *b, struct weft_errs *errs)
{
	int i;

	if (!errs)
		return;
	if (b->doc) {
		weft_cfg_place_errs(b->doc, errs);
		return;
	}
	for (i = 0; i < errs->n; i++)
		if (!*errs->v[i].where)
			snprintf(errs->v[i].where, sizeof(errs->v[i].where), "%s", b->name);
}

int bootstrap_load(const struct waypoint_options *opt, struct bootstrap *ret,
		   struct weft_errs *errs, struct weft_errs *warns, struct weft_errs *notes)
{
	const struct weft_yaml_doc *file = NULL, *text = NULL;
	struct weft_cfg c = {.errs = errs, .warns = warns, .notes = notes, .file = true};
	char *s = NULL;
	size_t n;
	int err, bad = 0;

	memset(ret, 0, sizeof(*ret));
	ret->arena = c.arena = weft_arena_new(64 << 10);
	ret->name = opt->config_path ? opt->config_path : "--config-yaml";
	if (opt->config_path) {
		s = slurp(opt->config_path, &n, errs);
		if (s)
			file = decode(ret->arena, opt->config_path, s, n, errs, &bad);
		free(s);
		if (!file)
			return -EINVAL;
	}
	if (opt->config_yaml) {
		text = decode(ret->arena, "--config-yaml", opt->config_yaml,
			      strlen(opt->config_yaml), errs, &bad);
		if (!text)
			return -EINVAL;
	}
	if (file && text) {
		ret->msg = merge(ret, file->msg, text->msg);
	} else {
		ret->doc = file ? file : text;
		ret->msg = (const boot_msg *)ret->doc->msg;
		ret->marks = c.marks = ret->doc->marks;
	}
	if (!ret->msg)
		return -EINVAL;
	ret->bad = errs->n;
	node_options(ret, opt);
	err = weft_cfg_check(&c, NULL, &ret->msg->base);
	err |= runtime(&c, ret);
	if (!err)
		err = regex_engine(&c, ret->msg) |
		      weft_dns_default(&c, NULL, ret->msg->typed_dns_resolver_config);
	if (!err)
		err = waypoint_stats_conf(&c, ret->msg->stats_config);
	if (!err)
		err = overload_prepare(&c, ret->msg->overload_manager, &ret->overload, ret);
	err |= bad;
	if (err) {
		bootstrap_place(ret, errs);
		bootstrap_place(ret, warns);
	}
	return err ? -EINVAL : 0;
}

void bootstrap_free(struct bootstrap *b)
{
	if (b->arena)
		weft_arena_free(b->arena);
	b->arena = NULL;
}
