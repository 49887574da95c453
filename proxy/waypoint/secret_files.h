/* The files that a secret names: read into it, and read again when something is moved into the
 * folders they stand in, or into the watched_directory that the secret has for them. */
#pragma once
#include "xds/cfg.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/secret.pb-c.h"

struct event_base;
struct secret_files;
struct weft_folders;

/* Watches from now on. *ret NULL: m names no files. 0, or -EINVAL with errors in c. */
int secret_files_new(struct weft_folders *folders, struct event_base *base, struct weft_cfg *c,
		     const Envoy__Extensions__TransportSockets__Tls__V3__Secret *m,
		     void (*moved)(void *owner), void *owner, struct secret_files **ret);
void secret_files_free(struct secret_files *f); /* NULL is fine */
/* The secret as it was given, with the names: a copy in a. */
Envoy__Extensions__TransportSockets__Tls__V3__Secret *
secret_files_names(const struct secret_files *f, struct weft_arena *a);
/* What files and the environment hold stands in m from here on. 0, or -EINVAL with errors in c. */
int secret_files_read(struct weft_cfg *c, Envoy__Extensions__TransportSockets__Tls__V3__Secret *m);
