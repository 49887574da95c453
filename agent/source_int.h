/* What the halves of the folder source share: source_file.c watches, source_set.c decides. */
#pragma once
#include "agent/source_file.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

enum { SOURCE_FILES_MAX = 20000, SOURCE_BUSY_MS = 5000 };

struct source_entry {
	char *name;
	struct weft_file *newest; /* as last read; NULL: not read yet */
	struct weft_file *good;	  /* in use; NULL: none */
	struct weft_file *choice; /* borrowed: newest or good, while deciding */
	struct weft_errs *found;  /* what other files make wrong with newest; NULL: nothing */
	int n_found;
	uint64_t told_errors, told_notes; /* hashes of what was told last; 0: nothing */
	struct stat st;			  /* when newest was read */
	uint64_t read_ns, busy_ns;	  /* busy: a writer has not closed it, since then */
	bool busy, dirty, seen, kept_tried;
};
struct weft_source_file {
	struct weft_source_file_conf conf;
	char *dir, *keep_dir;
	struct event_base *base;
	struct event *notify, *debounce, *rescan;
	int inotify_fd, watch; /* -1: none */
	dev_t watch_dev;
	ino_t watch_ino;
	uint64_t first_event_ns; /* 0: nothing is waiting */
	struct source_entry **v; /* by name */
	size_t n, cap;
	struct weft_objects *set;
	unsigned long reloads;
	bool stirred; /* something changed since source_decide */
	bool gone, settling, watch_told, many_told;
};
void source_tell(struct weft_source_file *s, enum weft_log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
struct source_entry *source_entry_get(struct weft_source_file *s, const char *name);
void source_entry_free(struct source_entry *e);
/* Entries hold their newest content: picks what is used, tells what changed, calls back. */
void source_decide(struct weft_source_file *s);
/* Last good content from an earlier run, for a file that is bad at the first look. */
void source_keep_load(struct weft_source_file *s, struct source_entry *e);
void source_keep_store(struct weft_source_file *s, const struct source_entry *e);
void source_keep_drop(struct weft_source_file *s, const struct source_entry *e);
void source_keep_sweep(struct weft_source_file *s); /* kept files whose original is gone */
