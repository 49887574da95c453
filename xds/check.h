/* Kinds of objects in a configuration folder, and every check that is made on them before they are
 * used. One thread. */
#pragma once
#include "proxy/core/err.h"
#include "xds/proto/kube.pb-c.h"
#include "xds/yaml.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum weft_kind_id {
	WEFT_KIND_NAMESPACE,
	WEFT_KIND_NODE,
	WEFT_KIND_SERVICE_ACCOUNT,
	WEFT_KIND_POD,
	WEFT_KIND_SERVICE,
	WEFT_KIND_ENDPOINT_SLICE,
	WEFT_KIND_AUTHORIZATION_POLICY,
	WEFT_KIND_PEER_AUTHENTICATION,
	WEFT_KIND_MESH_CONFIG,
	WEFT_KIND_SECRET,
	WEFT_KIND_CONFIG_MAP,
	WEFT_KIND_REQUEST_AUTHENTICATION,
	WEFT_KIND_GATEWAY_CLASS,
	WEFT_KIND_GATEWAY,
	WEFT_KIND_HTTP_ROUTE,
	WEFT_KIND_GRPC_ROUTE,
	WEFT_KIND_TCP_ROUTE,
	WEFT_KIND_TLS_ROUTE,
	WEFT_KIND_REFERENCE_GRANT,
	WEFT_KIND_BACKEND_TLS_POLICY,
	WEFT_KIND_COUNT
};
struct weft_kind {
	enum weft_kind_id id;
	const char *group;	 /* "" core */
	const char *versions[3]; /* accepted ones; NULL ends */
	const char *kind;
	const ProtobufCMessageDescriptor *desc;
	bool lenient; /* unknown fields are skipped: core Kubernetes kinds */
	bool no_ns;   /* cluster-scoped */
};
const struct weft_kind *weft_kind_get(enum weft_kind_id id);

/* metadata is never NULL, nor is spec where the kind has one; namespaced kinds have
 * metadata.namespace. */
struct weft_object {
	const struct weft_kind *kind;
	const ProtobufCMessage *msg; /* Weft__Kube__<Kind> */
	const Weft__Kube__ObjectMeta *meta;
	const char *ns, *name; /* ns "" for cluster-scoped kinds */
	const char *file;
	int line, end_line;
	const struct weft_marks *marks;
};
/* NULL where absent. */
const char *weft_meta_label(const Weft__Kube__ObjectMeta *m, const char *key);
const char *weft_meta_annotation(const Weft__Kube__ObjectMeta *m, const char *key);

/* A duration as the Gateway API writes it ("1h30m", "500ms"), in ms; -1: it is none. */
int64_t weft_gateway_duration(const char *s);

/* One file as read: all its objects, or its errors. Immutable and refcounted. */
struct weft_file {
	unsigned refs;
	const char *name;
	struct weft_arena *arena;
	const struct weft_object *v;
	size_t n;
	int n_errors;		 /* of this file alone, also those not kept */
	struct weft_errs *errs;	 /* NULL: none */
	struct weft_errs *notes; /* skipped kinds and the like; NULL: none */
	uint64_t hash[2];	 /* of the bytes, to see that nothing changed */
};
/* name: how messages call the file. Never fails: errors are in the result. */
struct weft_file *weft_file_parse(const char *name, const char *text, size_t n);
/* The same from disk; a file above WEFT_YAML_BYTES_MAX or unreadable is an error in the result.
 * path may be relative to dirfd. */
struct weft_file *weft_file_read(int dirfd, const char *path, const char *name);
void weft_file_ref(struct weft_file *f);
void weft_file_unref(struct weft_file *f);

/* What is found between objects of all files together. DUPLICATE and REFERENCE are errors of
 * files[file]. */
enum weft_finding { WEFT_FOUND_DUPLICATE, WEFT_FOUND_REFERENCE, WEFT_FOUND_WARNING };
typedef void weft_found(void *ctx, enum weft_finding what, size_t file, const struct weft_err *e);
/* Of two files with the same object the later in the array is told. Returns the number of errors.
 */
int weft_files_check(struct weft_file *const *files, size_t n, weft_found *found, void *ctx);

/* An immutable set of objects, ordered by kind, namespace, name. Holds its files. */
struct weft_objects {
	unsigned refs;
	const struct weft_object *v;
	size_t n;
	struct weft_file **files;
	size_t n_files;
	size_t first[WEFT_KIND_COUNT + 1]; /* v[first[k]..first[k+1]) are of kind k */
};
struct weft_objects *weft_objects_new(struct weft_file *const *files,
				      size_t n); /* takes its own references */
void weft_objects_ref(struct weft_objects *s);
void weft_objects_unref(struct weft_objects *s); /* NULL is fine */
const struct weft_object *weft_objects_of(const struct weft_objects *s, enum weft_kind_id kind,
					  size_t *ret_n);
/* Those of a namespace. */
const struct weft_object *weft_objects_in(const struct weft_objects *s, enum weft_kind_id kind,
					  const char *ns, size_t *ret_n);
const struct weft_object *
weft_objects_find(const struct weft_objects *s, enum weft_kind_id kind, const char *ns,
		  const char *name); /* ns NULL or "" for cluster-scoped; NULL: none */

/* For programs: everything at once. paths: files or folders (see weft_config_name); with files
 * alone a reference to an object that is not there is a note. Returns the number of errors; *ret
 * (may be NULL as argument) is a set of the files without errors, always given. errs and notes may
 * be NULL. */
int weft_check_paths(const char *const *paths, size_t n, struct weft_objects **ret,
		     struct weft_errs *errs, struct weft_errs *notes);
int weft_check_file(const char *path, struct weft_objects **ret, struct weft_errs *errs,
		    struct weft_errs *notes);
int weft_check_folder(const char *dir, struct weft_objects **ret, struct weft_errs *errs,
		      struct weft_errs *notes);
bool weft_config_name(const char *name); /* *.yaml *.yml *.json, not beginning with a dot */
