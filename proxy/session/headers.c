#include "proxy/session/headers.h"

#include <string.h>

enum {
	TABLE = 512, /* of ids by hash, a power of two, well above twice WEFT_H_COUNT */
	FAR = 255,   /* in `first`: beyond what a byte can say, search */
	FIRST_CAP = 16,
};
_Static_assert(WEFT_H_COUNT < 128, "the hash table and its bytes are made for fewer names");

static const struct {
	const char *name;
	uint8_t len;
} names[WEFT_H_COUNT] = {
#define HEADER(id, text) [WEFT_H_##id] = {text, sizeof(text) - 1},
#include "proxy/session/headers.def"
#undef HEADER
};
static uint8_t table[TABLE];

/* The end of a name tells more than its start: many begin with "x-envoy-". */
static inline uint32_t hash_of(const char *s, size_t n)
{
	uint32_t tail;

	if (n >= 4)
		memcpy(&tail, s + n - 4, 4);
	else
		tail = (uint32_t)(unsigned char)s[0] | (uint32_t)(unsigned char)s[n / 2] << 8;
	return ((tail ^ (uint32_t)n * 0x01000193u ^ (uint32_t)(unsigned char)s[n / 2] << 24) *
		0x9e3779b1u) >>
	       23;
}

/* From headers.def before main, so that the list stays the only place that names them. */
__attribute__((constructor)) static void fill_table(void)
{
	for (unsigned id = WEFT_H_OTHER + 1; id < WEFT_H_COUNT; id++) {
		uint32_t at = hash_of(names[id].name, names[id].len);

		while (table[at])
			at = (at + 1) % TABLE;
		table[at] = (uint8_t)id;
	}
}

enum weft_hid weft_hid_of(const char *name, size_t n)
{
	uint32_t at;
	uint8_t id;

	if (!n)
		return WEFT_H_OTHER;
	for (at = hash_of(name, n); (id = table[at]); at = (at + 1) % TABLE)
		if (names[id].len == n && !memcmp(names[id].name, name, n))
			return id;
	return WEFT_H_OTHER;
}

const char *weft_hid_name(enum weft_hid id)
{
	return names[id].name;
}

size_t weft_hid_len(enum weft_hid id)
{
	return names[id].len;
}

void weft_headers_init(struct weft_headers *h, struct weft_arena *a)
{
	*h = (struct weft_headers){.arena = a};
}

void weft_headers_reserve(struct weft_headers *h, uint32_t n)
{
	struct weft_header *v;

	if (n <= h->cap)
		return;
	if (n < FIRST_CAP)
		n = FIRST_CAP;
	v = weft_arena_alloc(h->arena, n * sizeof(*v));
	if (h->n)
		memcpy(v, h->v, h->n * sizeof(*v));
	h->v = v;
	h->cap = n;
}

static inline void note_first(struct weft_headers *h, uint16_t id, uint32_t i)
{
	if (id && !h->first[id])
		h->first[id] = i + 1 < FAR ? (uint8_t)(i + 1) : FAR;
}

static void renumber(struct weft_headers *h)
{
	memset(h->first, 0, sizeof(h->first));
	for (uint32_t i = 0; i < h->n; i++)
		note_first(h, h->v[i].id, i);
}

struct weft_header *weft_headers_get(const struct weft_headers *h, enum weft_hid id)
{
	uint8_t at = id ? h->first[id] : 0;

	if (!at)
		return NULL;
	if (at < FAR)
		return &h->v[at - 1];
	for (uint32_t i = FAR - 1; i < h->n; i++)
		if (h->v[i].id == id)
			return &h->v[i];
	return NULL;
}

static inline bool same_name(const struct weft_header *f, enum weft_hid id, const char *name,
			     size_t n)
{
	if (id)
		return f->id == id;
	return f->name_len == n && !memcmp(f->name, name, n);
}

/* Names of ours are asked for in lower case; a configuration's may not be. */
static const char *lowered(char *buf, size_t cap, const char *name, size_t n)
{
	size_t i;

	for (i = 0; i < n && !(name[i] >= 'A' && name[i] <= 'Z'); i++)
		;
	if (i == n || n > cap)
		return name;
	for (i = 0; i < n; i++)
		buf[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] | 0x20) : name[i];
	return buf;
}

struct weft_header *weft_headers_find(const struct weft_headers *h, const char *name, size_t n)
{
	char buf[256];
	enum weft_hid id;

	n = n ?: strlen(name);
	name = lowered(buf, sizeof(buf), name, n);
	id = weft_hid_of(name, n);
	if (id)
		return weft_headers_get(h, id);
	for (uint32_t i = 0; i < h->n; i++)
		if (same_name(&h->v[i], id, name, n))
			return &h->v[i];
	return NULL;
}

const char *weft_headers_value(const struct weft_headers *h, enum weft_hid id)
{
	const struct weft_header *f = weft_headers_get(h, id);

	return f ? f->value : "";
}

const char *weft_headers_joined(const struct weft_headers *h, const char *name, size_t n,
				size_t *ret_n)
{
	const struct weft_header *f;
	enum weft_hid id;
	char buf[256], *text, *to;
	size_t bytes = 0;
	uint32_t at, i, more = 0;

	n = n ?: strlen(name);
	name = lowered(buf, sizeof(buf), name, n);
	f = weft_headers_find(h, name, n);
	if (!f)
		return NULL;
	id = f->id;
	at = (uint32_t)(f - h->v);
	for (i = at + 1; i < h->n; i++)
		if (same_name(&h->v[i], id, name, n)) {
			bytes += 1 + h->v[i].value_len;
			more++;
		}
	if (ret_n)
		*ret_n = f->value_len + bytes;
	if (!more)
		return f->value;
	to = text = weft_arena_alloc(h->arena, f->value_len + bytes + 1);
	for (i = at; i < h->n; i++) {
		if (!same_name(&h->v[i], id, name, n))
			continue;
		if (i > at)
			*to++ = ',';
		memcpy(to, h->v[i].value, h->v[i].value_len);
		to += h->v[i].value_len;
	}
	return text; /* the arena gives zeroed bytes */
}

void weft_headers_add_ref(struct weft_headers *h, enum weft_hid id, const char *name, size_t name_n,
			  const char *value, size_t value_n)
{
	if (h->n == h->cap)
		weft_headers_reserve(h, 2 * h->cap + 1);
	h->v[h->n] = (struct weft_header){
		.name = name,
		.value = value,
		.name_len = (uint32_t)name_n,
		.value_len = (uint32_t)value_n,
		.id = (uint16_t)id,
	};
	note_first(h, (uint16_t)id, h->n++);
	h->bytes += (uint32_t)(name_n + value_n);
}

static char *copied(struct weft_arena *a, const char *s, size_t n)
{
	char *p = weft_arena_alloc(a, n + 1);

	if (n)
		memcpy(p, s, n);
	return p;
}

/* The name as the list keeps it: the static one of an id, else a lowered copy. */
static const char *own_name(struct weft_headers *h, const char *name, size_t n,
			    enum weft_hid *ret_id)
{
	char buf[256], *p;
	const char *low = lowered(buf, sizeof(buf), name, n);

	*ret_id = weft_hid_of(low, n);
	if (*ret_id)
		return names[*ret_id].name;
	p = copied(h->arena, low, n);
	if (n > sizeof(buf))
		for (size_t i = 0; i < n; i++)
			if (p[i] >= 'A' && p[i] <= 'Z')
				p[i] |= 0x20;
	return p;
}

void weft_headers_add(struct weft_headers *h, const char *name, size_t name_n, const char *value,
		      size_t value_n)
{
	enum weft_hid id;

	name = own_name(h, name, name_n, &id);
	weft_headers_add_ref(h, id, name, name_n, copied(h->arena, value, value_n), value_n);
}

void weft_headers_add_id(struct weft_headers *h, enum weft_hid id, const char *value,
			 size_t value_n)
{
	weft_headers_add_ref(h, id, names[id].name, names[id].len, copied(h->arena, value, value_n),
			     value_n);
}

static unsigned remove_from(struct weft_headers *h, uint32_t from, enum weft_hid id,
			    const char *name, size_t n)
{
	uint32_t to = from, i;

	for (i = from; i < h->n; i++) {
		if (same_name(&h->v[i], id, name, n)) {
			h->bytes -= h->v[i].name_len + h->v[i].value_len;
			continue;
		}
		if (to != i)
			h->v[to] = h->v[i];
		to++;
	}
	i = h->n - to;
	h->n = to;
	if (i)
		renumber(h);
	return i;
}

static void set_value(struct weft_headers *h, struct weft_header *f, const char *value,
		      size_t value_n)
{
	h->bytes += (uint32_t)value_n - f->value_len;
	f->value = copied(h->arena, value, value_n);
	f->value_len = (uint32_t)value_n;
}

void weft_headers_set(struct weft_headers *h, const char *name, size_t name_n, const char *value,
		      size_t value_n)
{
	struct weft_header *f = weft_headers_find(h, name, name_n);

	if (!f) {
		weft_headers_add(h, name, name_n ?: strlen(name), value, value_n);
		return;
	}
	set_value(h, f, value, value_n);
	remove_from(h, (uint32_t)(f - h->v) + 1, f->id, f->name, f->name_len);
}

void weft_headers_set_id(struct weft_headers *h, enum weft_hid id, const char *value,
			 size_t value_n)
{
	struct weft_header *f = weft_headers_get(h, id);

	if (!f) {
		weft_headers_add_id(h, id, value, value_n);
		return;
	}
	set_value(h, f, value, value_n);
	remove_from(h, (uint32_t)(f - h->v) + 1, id, NULL, 0);
}

void weft_headers_append(struct weft_headers *h, enum weft_hid id, const char *value,
			 size_t value_n)
{
	struct weft_header *f = weft_headers_get(h, id);
	char *text;

	if (!f || !f->value_len) {
		weft_headers_set_id(h, id, value, value_n);
		return;
	}
	text = weft_arena_alloc(h->arena, f->value_len + value_n + 2);
	memcpy(text, f->value, f->value_len);
	text[f->value_len] = ',';
	memcpy(text + f->value_len + 1, value, value_n);
	f->value = text;
	f->value_len += 1 + (uint32_t)value_n;
	h->bytes += 1 + (uint32_t)value_n;
}

unsigned weft_headers_remove(struct weft_headers *h, const char *name, size_t n)
{
	char buf[256];
	enum weft_hid id;

	n = n ?: strlen(name);
	name = lowered(buf, sizeof(buf), name, n);
	id = weft_hid_of(name, n);
	return id ? weft_headers_remove_id(h, id) : remove_from(h, 0, id, name, n);
}

unsigned weft_headers_remove_id(struct weft_headers *h, enum weft_hid id)
{
	struct weft_header *f = weft_headers_get(h, id);

	return f ? remove_from(h, (uint32_t)(f - h->v), id, NULL, 0) : 0;
}

void weft_headers_remove_at(struct weft_headers *h, uint32_t i)
{
	h->bytes -= h->v[i].name_len + h->v[i].value_len;
	memmove(&h->v[i], &h->v[i + 1], (h->n - i - 1) * sizeof(*h->v));
	h->n--;
	renumber(h);
}

void weft_headers_copy(struct weft_headers *to, const struct weft_headers *from)
{
	char *text = weft_arena_alloc(to->arena, from->bytes + 2 * (size_t)from->n);

	weft_headers_reserve(to, to->n + from->n);
	for (uint32_t i = 0; i < from->n; i++) {
		const struct weft_header *f = &from->v[i];
		const char *name = f->id ? names[f->id].name : text;

		if (!f->id) {
			memcpy(text, f->name, f->name_len);
			text += f->name_len + 1;
		}
		memcpy(text, f->value, f->value_len);
		weft_headers_add_ref(to, f->id, name, f->name_len, text, f->value_len);
		to->v[to->n - 1].no_index = f->no_index;
		text += f->value_len + 1;
	}
	weft_headers_spelling_copy(to, from);
}

int weft_headers_status(const struct weft_headers *h)
{
	const struct weft_header *f = weft_headers_get(h, WEFT_H_STATUS);
	int n = 0;

	if (!f || f->value_len != 3)
		return 0;
	for (int i = 0; i < 3; i++) {
		if (f->value[i] < '0' || f->value[i] > '9')
			return 0;
		n = 10 * n + f->value[i] - '0';
	}
	return n;
}

struct spelled {
	struct spelled *next;
	const char *name;
	uint32_t len;
};
enum { SPELLED_BUCKETS = 32 }; /* max_headers_count may be large */
struct weft_spelling {
	struct spelled *names[SPELLED_BUCKETS];
	const char *reason;
	bool proper;
};

void weft_headers_spell(struct weft_headers *h, bool proper)
{
	if (!h->spelling)
		h->spelling = weft_arena_alloc(h->arena, sizeof(*h->spelling));
	h->spelling->proper = proper;
}

/* In any case of the letters; the list's address is what peers do not know. */
static struct spelled **bucket_of(const struct weft_headers *h, const char *name, size_t n)
{
	uint64_t x = (uintptr_t)h->spelling;

	for (size_t i = 0; i < n; i++)
		x = (x >> 29 ^ x ^ (uint8_t)(name[i] | 0x20)) * 0x9e3779b97f4a7c15ull;
	return &h->spelling->names[x >> 32 & (SPELLED_BUCKETS - 1)];
}

static const struct spelled *spelled(const struct weft_headers *h, const char *name, size_t n)
{
	for (const struct spelled *c = *bucket_of(h, name, n); c; c = c->next)
		if (c->len == n && !strncasecmp(c->name, name, n))
			return c;
	return NULL;
}

void weft_headers_spell_name(struct weft_headers *h, const char *name, size_t n)
{
	struct spelled *c, **at;

	if (spelled(h, name, n))
		return;
	c = weft_arena_alloc(h->arena, sizeof(*c));
	c->name = copied(h->arena, name, n);
	c->len = (uint32_t)n;
	at = bucket_of(h, name, n);
	c->next = *at;
	*at = c;
}

void weft_headers_spell_reason(struct weft_headers *h, const char *reason, size_t n)
{
	h->spelling->reason = n ? copied(h->arena, reason, n) : NULL;
}

/* A letter that is first or follows what is neither letter nor digit is a capital. */
static const char *proper(struct weft_arena *a, const char *name, size_t n)
{
	char *p = weft_arena_alloc(a, n + 1);
	bool up = true;

	for (size_t i = 0; i < n; i++) {
		bool letter = name[i] >= 'a' && name[i] <= 'z';

		p[i] = up && letter ? (char)(name[i] & ~0x20) : name[i];
		up = !letter && !(name[i] >= '0' && name[i] <= '9');
	}
	p[n] = '\0';
	return p;
}

const char *weft_headers_spelling(const struct weft_headers *h, const char *name, size_t n)
{
	const struct spelled *c = spelled(h, name, n);

	if (c)
		return c->name;
	return h->spelling->proper ? proper(h->arena, name, n) : NULL;
}

const char *weft_headers_reason(const struct weft_headers *h)
{
	return h->spelling ? h->spelling->reason : NULL;
}

void weft_headers_spelling_copy(struct weft_headers *to, const struct weft_headers *from)
{
	if (!from->spelling)
		return;
	weft_headers_spell(to, from->spelling->proper);
	for (unsigned i = 0; i < SPELLED_BUCKETS; i++)
		for (const struct spelled *c = from->spelling->names[i]; c; c = c->next)
			weft_headers_spell_name(to, c->name, c->len);
	if (from->spelling->reason)
		weft_headers_spell_reason(to, from->spelling->reason,
					  strlen(from->spelling->reason));
}
