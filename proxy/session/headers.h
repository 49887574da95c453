/* HTTP header list of a message: names are lower case, pseudo headers stand as ":method", ":path",
 * ":authority",
 * ":scheme", ":status" whatever the version on the wire (h1's Host is ":authority"). Ordered; one
 * field a line. Strings are NUL-terminated slices in the list's arena. One thread. */
#pragma once
#include "proxy/core/arena.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Names looked up on the hot path, by id instead of by text: headers.def has HEADER(id, "name")
 * lines. */
enum weft_hid {
	WEFT_H_OTHER,
#define HEADER(id, name) WEFT_H_##id,
#include "proxy/session/headers.def"
#undef HEADER
	WEFT_H_COUNT
};
struct weft_header {
	const char *name, *value;
	uint32_t name_len, value_len;
	uint16_t id;   /* enum weft_hid */
	bool no_index; /* never indexed by HPACK (sensitive) */
};
struct weft_spelling; /* how names and the reason were written where the message came from:
			 headers.c */
struct weft_headers {
	struct weft_arena *arena; /* of the stream; strings put in must live as long */
	struct weft_header *v;
	uint32_t n, cap;
	uint32_t bytes;			/* sum of name and value lengths */
	struct weft_spelling *spelling; /* NULL: not kept */
	uint8_t first[WEFT_H_COUNT];	/* index + 1 of the first field of an id when < 255; 255:
					   search; 0: none */
};
void weft_headers_init(struct weft_headers *h, struct weft_arena *a);
void weft_headers_reserve(struct weft_headers *h, uint32_t n); /* room for n fields in all */
/* id of a lower-case name; WEFT_H_OTHER. Perfect hash or switch on length: a few ns. */
enum weft_hid weft_hid_of(const char *name, size_t n);
/* First field of that name, or NULL. */
struct weft_header *weft_headers_get(const struct weft_headers *h, enum weft_hid id);
struct weft_header *weft_headers_find(const struct weft_headers *h, const char *name,
				      size_t n); /* n 0: strlen */
const char *weft_headers_value(const struct weft_headers *h,
			       enum weft_hid id); /* "" when absent: never NULL */
/* All values of a name joined by "," in the arena; the one value itself where there is one; NULL:
 * absent. */
const char *weft_headers_joined(const struct weft_headers *h, const char *name, size_t n,
				size_t *ret_n);
/* add copies both into the arena, add_ref keeps the pointers (must outlive the list). set replaces
 * all of that name by one in the place of the first. The name is lowered by add and set. */
void weft_headers_add(struct weft_headers *h, const char *name, size_t name_n, const char *value,
		      size_t value_n);
void weft_headers_add_id(struct weft_headers *h, enum weft_hid id, const char *value,
			 size_t value_n); /* copies value */
void weft_headers_add_ref(struct weft_headers *h, enum weft_hid id, const char *name, size_t name_n,
			  const char *value, size_t value_n);
void weft_headers_set(struct weft_headers *h, const char *name, size_t name_n, const char *value,
		      size_t value_n);
void weft_headers_set_id(struct weft_headers *h, enum weft_hid id, const char *value,
			 size_t value_n);
/* Appends ",value" to the first of that name, or adds it. */
void weft_headers_append(struct weft_headers *h, enum weft_hid id, const char *value,
			 size_t value_n);
unsigned weft_headers_remove(struct weft_headers *h, const char *name, size_t n); /* how many */
unsigned weft_headers_remove_id(struct weft_headers *h, enum weft_hid id);
void weft_headers_remove_at(struct weft_headers *h, uint32_t i);
void weft_headers_copy(struct weft_headers *to,
		       const struct weft_headers *from); /* to: initialised; strings are copied */
const char *weft_hid_name(enum weft_hid id);		 /* static; its length by weft_hid_len */
size_t weft_hid_len(enum weft_hid id);
int weft_headers_status(const struct weft_headers *h); /* of ":status"; 0: none or not a number */
/* Spelling: kept by the reader of an h1 message (preserve_case), looked up by the writer of the
 * next one. proper: names that did not come with it are written Like-This. Of a name that comes
 * twice the first counts. */
void weft_headers_spell(struct weft_headers *h, bool proper);
void weft_headers_spell_name(struct weft_headers *h, const char *name, size_t n);
void weft_headers_spell_reason(struct weft_headers *h, const char *reason, size_t n);
/* NULL: as it is. For a list that has a spelling. */
const char *weft_headers_spelling(const struct weft_headers *h, const char *name, size_t n);
const char *weft_headers_reason(const struct weft_headers *h); /* NULL: the usual one */
void weft_headers_spelling_copy(struct weft_headers *to, const struct weft_headers *from);
