/* Shared by source*.c. */
#pragma once
#include "xds/names.h"
#include "xds/source.h"
#include "xds/stream.h"

struct event;
TAILQ_HEAD(watch_list, weft_xds_watch);

struct weft_xds_watch {
	TAILQ_ENTRY(weft_xds_watch) link; /* of those of one name */
	TAILQ_ENTRY(weft_xds_watch) turn; /* of those to be looked at from the loop */
	struct xgroup *group;
	struct xwname *name; /* NULL: everything */
	const struct weft_xds_sink *sink;
	void *owner;
	struct event *timeout;
	struct weft_xds_stat stat; /* without the strings */
	bool turned;		   /* is in the sources' turn list */
	bool fresh;		   /* may be given what is held already */
	bool dead, complete;
};

struct xwname { /* a name that is watched */
	UT_hash_handle hh;
	struct watch_list watches;
	char name[];
};

struct xgroup { /* a type on a source */
	TAILQ_ENTRY(xgroup) link;
	struct xsource *source;
	struct xtype *x;
	struct weft_xds_watch *all; /* of everything; NULL: none */
	struct xwname *names;
};

struct xfile;
struct xsource {
	TAILQ_ENTRY(xsource) link;
	struct weft_xds_sources *sources;
	uint8_t *key; /* what makes two the same */
	size_t n_key;
	struct weft_xds_stream *stream;
	TAILQ_HEAD(, xgroup) groups;
	char *label; /* for logs: "ads", the cluster, the file */
	char *cluster;
	struct xfile *file; /* NULL: a server */
	size_t n_watches;
};

struct weft_xds_sources {
	struct event_base *base;
	struct weft_xds_sources_conf conf;
	TAILQ_HEAD(, xsource) sources;
	struct xsource *ads;
	struct watch_list turn;
	struct event *ev_turn;
	struct xinotify *inotify; /* made with the first file */
	bool freeing;
};

/* source_group.c */
struct xgroup *weft_xds_group_of(struct xsource *src, const struct weft_xds_type *t);
struct xwname *weft_xds_group_name(const struct xgroup *g,
				   const char *name); /* NULL: not watched */
void weft_xds_group_each(struct xgroup *g, void (*fn)(struct weft_xds_watch *w, bool up), bool up);
void weft_xds_watch_complete(struct weft_xds_watch *w);
void weft_xds_watch_no_timeout(struct weft_xds_watch *w);

/* source_conf.c */
int weft_xds_source_stream_conf(const struct weft_xds_sources *s,
				const Envoy__Config__Core__V3__ApiConfigSource *api,
				const struct weft_xds_type *t, bool ads,
				struct weft_xds_stream_conf *ret, char **ret_cluster);

/* source_path.c */
int weft_xds_file_open(struct xsource *src, const char *path, const char *watched_dir,
		       struct weft_err *reterr);
void weft_xds_file_read_soon(struct xfile *f); /* names were added */
void weft_xds_file_close(struct xfile *f);
void weft_xds_inotify_free(struct xinotify *in);
