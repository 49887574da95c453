/* Which listeners a proxy has, told by the socket they are: a duplicate has the same inode number,
 * a new one has not. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

struct weft_held;
ino_t weft_held_ino(int fd); /* 0: none */
void weft_held_add(struct weft_held **list, const char *uid, int kind,
		   ino_t ino); /* replaces that kind's */
bool weft_held_has(const struct weft_held *list, const char *uid, int kind, ino_t ino);
void weft_held_drop(struct weft_held **list, const char *uid); /* NULL: all */
