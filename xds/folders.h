/* Folders watched by inotify for what is moved into them: how Kubernetes, and everyone who replaces
 * files whole, does it. One thread. */
#pragma once
#include <stddef.h>

struct event_base;
struct weft_folders;
struct weft_folder_watch;

struct weft_folders *weft_folders_new(struct event_base *base);
void weft_folders_free(struct weft_folders *f); /* after its watches; NULL is fine */

/* moved is called from the loop, once for what came together; it may unwatch. NULL: errno. */
struct weft_folder_watch *weft_folder_watch(struct weft_folders *f, const char *path,
					    void (*moved)(void *owner), void *owner);
void weft_folder_unwatch(struct weft_folder_watch *w); /* NULL is fine */
