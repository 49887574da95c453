#include "agent/broker_held.h"
#include "proxy/core/arena.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct weft_held {
	char *uid;
	int kind;
	ino_t ino;
	struct weft_held *next;
};

ino_t weft_held_ino(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? 0 : st.st_ino;
}

void weft_held_add(struct weft_held **list, const char *uid, int kind, ino_t ino)
{
	struct weft_held *h;

	for (h = *list; h; h = h->next)
		if (h->kind == kind && !strcmp(h->uid, uid))
			break;
	if (!h) {
		h = weft_xcalloc(1, sizeof(*h));
		h->uid = weft_xstrdup(uid);
		h->kind = kind;
		h->next = *list;
		*list = h;
	}
	h->ino = ino;
}

bool weft_held_has(const struct weft_held *list, const char *uid, int kind, ino_t ino)
{
	const struct weft_held *h;

	for (h = list; h; h = h->next)
		if (h->kind == kind && h->ino == ino && !strcmp(h->uid, uid))
			return true;
	return false;
}

void weft_held_drop(struct weft_held **list, const char *uid)
{
	struct weft_held **at = list, *h;

	while ((h = *at)) {
		if (uid && strcmp(h->uid, uid)) {
			at = &h->next;
			continue;
		}
		*at = h->next;
		free(h->uid);
		free(h);
	}
}
