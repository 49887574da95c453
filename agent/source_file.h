/* A watched folder of YAML and JSON as one source of configuration: inotify, a rescan as safety,
 * atomic reload. Main thread. A file with an error keeps its last good objects; a folder that
 * vanishes keeps everything. */
#pragma once
#include "proxy/core/err.h"
#include "proxy/core/log.h"
#include "xds/check.h"
#include <stddef.h>

struct event_base;
struct weft_source_file;

struct weft_source_file_conf {
	const char *dir;
	const char *keep_dir; /* of this folder alone: where each file's last good bytes are kept
				 for the next start; NULL: nowhere */
	unsigned debounce_ms; /* 0: 60 */
	unsigned rescan_ms;   /* 0: 3000 */
	/* The set changed. Borrowed: take a reference to keep it. Called once within open, then
	 * from the loop. */
	void (*changed)(void *owner, struct weft_objects *set);
	/* One message, told once while it holds: "mesh.yaml:3:5: …", "mesh.yaml: 2 errors, its last
	 * good configuration stays". May be NULL. */
	void (*told)(void *owner, enum weft_log_level level, const char *text);
	void *owner;
};
/* A folder that is missing at start is an error; bad files in it are not: they are told. */
int weft_source_file_open(struct event_base *base, const struct weft_source_file_conf *conf,
			  struct weft_source_file **ret, struct weft_err *reterr);
void weft_source_file_close(struct weft_source_file *s);		     /* NULL is fine */
struct weft_objects *weft_source_file_set(const struct weft_source_file *s); /* borrowed */
/* Now, not when inotify says (admin, after own writes); not from within a callback. */
void weft_source_file_rescan(struct weft_source_file *s);
/* Each file whose newest content is not in use, with its first message. */
void weft_source_file_each_bad(const struct weft_source_file *s,
			       void (*fn)(void *ctx, const char *name, int n_errors,
					  const char *text),
			       void *ctx);
/* Figures for admin and checks. */
struct weft_source_file_stat {
	size_t files, bad_files, objects; /* bad: each_bad tells them */
	unsigned long reloads;
	bool folder_gone;
};
void weft_source_file_stat(const struct weft_source_file *s, struct weft_source_file_stat *ret);
