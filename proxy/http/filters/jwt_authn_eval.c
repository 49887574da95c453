/* One requirement of one request: which tokens there are, whether they are good, and what they then
 * do to the request. Runs to its end in one go; where keys are missing it says so, and is run again
 * from the start when they are there. */
#include "proxy/core/worker.h"
#include "proxy/http/filters/jwt_authn_priv.h"
#include "xds/wire.h"

#include <ctype.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct token {
	const struct jwt_location *from;
	const char *s;
	size_t n;
};
struct tokens {
	struct token v[JWT_TOKENS_MAX];
	size_t n;
	bool many; /* more than that */
};

/* ---- effects */
static struct jwt_effect *effect(struct jwt_eval *e, int kind, const char *name)
{
	struct jwt_effect *f = weft_arena_alloc(weft_stream_arena(e->s), sizeof(*f));

	f->kind = kind;
	f->name = name;
	*e->last = f;
	e->last = &f->next;
	return f;
}

static bool removed(const struct jwt_eval *e, int kind, const char *name)
{
	for (const struct jwt_effect *f = e->first; f; f = f->next)
		if ((int)f->kind == kind && !strcmp(f->name, name))
			return true;
	return false;
}

static void param_remove(struct jwt_eval *e, const char *name)
{
	const struct weft_header *path = weft_headers_get(e->h, WEFT_H_PATH);
	const char *q = path ? memchr(path->value, '?', path->value_len) : NULL, *p, *end;
	size_t name_n = strlen(name), at;
	char *out, sep;

	if (!q)
		return;
	out = weft_arena_alloc(weft_stream_arena(e->s), path->value_len + 1);
	at = (size_t)(q - path->value);
	memcpy(out, path->value, at);
	for (p = q + 1; *p; p = *end ? end + 1 : end) {
		end = p + strcspn(p, "&");
		if ((size_t)(end - p) >= name_n && !memcmp(p, name, name_n) &&
		    (p + name_n == end || p[name_n] == '='))
			continue;
		sep = memchr(out, '?', at) ? '&' : '?';
		out[at++] = sep;
		memcpy(out + at, p, (size_t)(end - p));
		at += (size_t)(end - p);
	}
	weft_headers_set_id(e->h, WEFT_H_PATH, out, at);
}

void jwt_effects(struct jwt_eval *e, bool ok)
{
	struct weft_info *info = weft_stream_info(e->s);

	for (const struct jwt_effect *f = e->first; f; f = f->next) {
		if (f->kind == JWT_META) {
			weft_struct_set(info->arena, weft_info_meta(info, JWT_NAMESPACE), f->name,
					f->meta);
			continue;
		}
		if (!ok)
			continue;
		switch (f->kind) {
		case JWT_ADD:
			weft_headers_add(e->h, f->name, strlen(f->name), f->value, f->value_n);
			break;
		case JWT_REMOVE_HEADER:
			weft_headers_remove(e->h, f->name, strlen(f->name));
			break;
		case JWT_REMOVE_PARAM:
			param_remove(e, f->name);
			break;
		default:
			weft_stream_clear_route(e->s);
			break;
		}
	}
}

static void sanitize_provider(const struct jwt_provider *p, struct weft_headers *h)
{
	if (p->payload_header)
		weft_headers_remove(h, p->payload_header, strlen(p->payload_header));
	for (size_t i = 0; i < p->n_claims; i++)
		weft_headers_remove(h, p->claims[i].header, strlen(p->claims[i].header));
}

void jwt_sanitize(const struct jwt_req *r, struct weft_headers *h)
{
	for (size_t i = 0; i < r->n_providers; i++)
		sanitize_provider(r->providers[i], h);
	for (size_t i = 0; i < r->n; i++)
		jwt_sanitize(&r->v[i], h);
}

/* ---- tokens of a request */
static void token_add(struct tokens *t, const struct jwt_location *from, const char *s, size_t n)
{
	/* several providers may look at one place */
	for (size_t i = 0; i < t->n; i++)
		if (t->v[i].s == s && t->v[i].n == n)
			return;
	if (t->n == JWT_TOKENS_MAX) {
		t->many = true;
		return;
	}
	t->v[t->n++] = (struct token){from, s, n};
}

static bool token_char(char c)
{
	return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.';
}

static void from_header(const struct jwt_eval *e, const struct jwt_location *l, struct tokens *t)
{
	if (removed(e, JWT_REMOVE_HEADER, l->name))
		return;
	for (uint32_t i = 0; i < e->h->n; i++) {
		const struct weft_header *f = &e->h->v[i];
		const char *s = f->value, *end = s + f->value_len, *p;

		if (f->name_len != l->name_n || memcmp(f->name, l->name, l->name_n) != 0)
			continue;
		if (l->prefix_n) {
			p = memmem(s, f->value_len, l->prefix, l->prefix_n);
			if (!p)
				continue;
			for (p += l->prefix_n; p < end && !token_char(*p); p++)
				;
			s = p < end ? p : s;
		}
		token_add(t, l, s, (size_t)(end - s));
	}
}

static void from_param(const struct jwt_eval *e, const struct jwt_location *l, struct tokens *t)
{
	const struct weft_header *path = weft_headers_get(e->h, WEFT_H_PATH);
	const char *q = path ? memchr(path->value, '?', path->value_len) : NULL, *v;
	size_t n = 0;

	if (!q || removed(e, JWT_REMOVE_PARAM, l->name))
		return;
	q++;
	v = weft_query_get(q, path->value_len - (size_t)(q - path->value), l->name,
			   weft_stream_arena(e->s), &n);
	if (v)
		token_add(t, l, v, n);
}

static void from_cookie(const struct jwt_eval *e, const struct jwt_location *l, struct tokens *t)
{
	size_t n = 0;
	const char *v = weft_cookie_get(e->h, l->name, weft_stream_arena(e->s), &n);

	if (v)
		token_add(t, l, v, n);
}

static void extract(const struct jwt_eval *e, const struct jwt_provider *p, struct tokens *t)
{
	for (size_t i = 0; i < p->n_locations; i++) {
		const struct jwt_location *l = &p->locations[i];

		if (l->kind == JWT_IN_HEADER)
			from_header(e, l, t);
		else if (l->kind == JWT_IN_PARAM)
			from_param(e, l, t);
		else
			from_cookie(e, l, t);
	}
}

/* ---- what a good token does */
static const json_t *claim_find(const json_t *o, const char *path)
{
	char key[256];

	for (;;) {
		size_t n = strcspn(path, ".");

		if (n >= sizeof(key))
			return NULL;
		memcpy(key, path, n);
		key[n] = '\0';
		o = json_object_get(o, key);
		if (!path[n] || !o)
			return o;
		path += n + 1;
	}
}

static const char *number_text(struct weft_arena *a, double d)
{
	if (d >= 0 && d < 18446744073709551616.0 && trunc(d) == d)
		return weft_arena_printf(a, "%llu", (unsigned long long)d);
	return weft_arena_printf(a, "%f", d);
}

static bool clean(const char *s)
{
	for (; *s; s++)
		if (((unsigned char)*s < ' ' && *s != '\t') || *s == 0x7f)
			return false;
	return true;
}

static json_t *integer_of(const json_t *v)
{
	double d = json_is_real(v) ? json_real_value(v) : 0.5;

	return trunc(d) == d && fabs(d) < 9007199254740992.0 ? json_integer((json_int_t)d) : NULL;
}

/* Numbers were read as doubles; whole ones are written as such. */
static void whole_numbers(json_t *v)
{
	const char *key;
	json_t *e, *n;
	size_t i;

	json_array_foreach(v, i, e)
	{
		n = integer_of(e);
		if (n)
			json_array_set_new(v, i, n);
		else
			whole_numbers(e);
	}
	json_object_foreach(v, key, e)
	{
		n = integer_of(e);
		if (n)
			json_object_set_new_nocheck(v, key, n);
		else
			whole_numbers(e);
	}
}

/* Lists and objects: base64 of their JSON (RFC 4648 §4, padded). NULL: it cannot be written. */
static const char *json_text(struct weft_arena *a, const json_t *v)
{
	json_t *own = json_deep_copy(v);
	char *json;
	unsigned char *to;
	size_t n;

	whole_numbers(own);
	json = json_dumps(own, JSON_COMPACT);
	json_decref(own);
	n = json ? strlen(json) : 0;
	if (!json)
		return NULL;
	to = weft_arena_alloc(a, (n + 2) / 3 * 4 + 1);
	EVP_EncodeBlock(to, (const unsigned char *)json, (int)n);
	free(json);
	return (const char *)to;
}

static void claim_effect(struct jwt_eval *e, const struct jwt_claim *c, const json_t *payload)
{
	struct weft_arena *a = weft_stream_arena(e->s);
	const json_t *v = claim_find(payload, c->claim);
	struct jwt_effect *f;
	const char *s = NULL;

	if (json_is_string(v))
		s = weft_arena_strdup(a, json_string_value(v));
	else if (json_is_number(v))
		s = number_text(a, json_number_value(v));
	else if (json_is_boolean(v))
		s = json_is_true(v) ? "true" : "false";
	else if (json_is_array(v) || json_is_object(v))
		s = json_text(a, v);
	if (!s || !*s || !clean(s)) /* what no header can carry is left out */
		return;
	f = effect(e, JWT_ADD, c->header);
	f->value = s;
	f->value_n = strlen(s);
}

static void meta_effect(struct jwt_eval *e, const char *key, const Google__Protobuf__Value *v)
{
	effect(e, JWT_META, key)->meta = v;
}

static void good(struct jwt_eval *e, const struct jwt_provider *p, const struct token *from,
		 const struct weft_jwt *t)
{
	struct weft_arena *a = weft_stream_arena(e->s);

	if (p->payload_header) {
		struct jwt_effect *f = effect(e, JWT_ADD, p->payload_header);
		static const char pad[] = "==";

		f->value = weft_arena_printf(a, "%.*s%s", (int)t->payload64_n, t->payload64,
					     p->pad ? pad + 2 - (4 - t->payload64_n % 4) % 4 : "");
		f->value_n = strlen(f->value);
	}
	for (size_t i = 0; i < p->n_claims; i++)
		claim_effect(e, &p->claims[i], t->payload);
	if (!p->forward && from->from->kind == JWT_IN_HEADER)
		effect(e, JWT_REMOVE_HEADER, from->from->name);
	if (!p->forward && from->from->kind == JWT_IN_PARAM)
		effect(e, JWT_REMOVE_PARAM, from->from->name);
	if (p->header_meta)
		meta_effect(e, p->header_meta, jwt_value(a, t->header));
	if (p->payload_meta)
		meta_effect(e, p->payload_meta, jwt_payload(a, p, t->payload));
	if (p->clear_route && (p->n_claims || p->payload_header || p->payload_meta))
		effect(e, JWT_CLEAR_ROUTE, "");
}

static void bad(struct jwt_eval *e, const struct jwt_provider *p, enum weft_jwt_status st)
{
	struct weft_arena *a = weft_stream_arena(e->s);
	Google__Protobuf__Value *v;

	if (!p || !p->failed_meta || st == WEFT_JWT_MISSED)
		return;
	v = weft_arena_alloc(a, sizeof(*v));
	weft_message_init(&google__protobuf__value__descriptor, v);
	v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
	v->struct_value = weft_arena_alloc(a, sizeof(*v->struct_value));
	weft_message_init(&google__protobuf__struct__descriptor, v->struct_value);
	weft_struct_set_number(a, v->struct_value, "code", weft_jwt_code(st));
	weft_struct_set_string(a, v->struct_value, "message", weft_jwt_text(st));
	meta_effect(e, p->failed_meta, v);
}

/* ---- one token */
static bool audience_ok(const struct jwt_names *want, const json_t *aud)
{
	size_t i;
	json_t *v;

	if (!want->n)
		return true;
	if (json_is_string(aud)) {
		size_t n;
		const char *s = jwt_audience(json_string_value(aud), &n);
		char *copy = strndup(s, n);
		bool ok = jwt_names_has(want, copy);

		free(copy);
		return ok;
	}
	json_array_foreach((json_t *)aud, i, v) if (audience_ok(want, v)) return true;
	return false;
}

static enum weft_jwt_status claims_ok(const struct jwt_eval *e, const struct jwt_provider *p,
				      const struct jwt_req *r, const struct weft_jwt *t)
{
	enum weft_jwt_status st = weft_jwt_check_time(t, e->now_s, p->skew_s);

	if (st)
		return st;
	if (p->has_subjects &&
	    weft_strmatch(&p->subjects, t->sub, strlen(t->sub)) != WEFT_MATCH_YES)
		return WEFT_JWT_VERIFICATION;
	if ((p->require_exp || p->max_life_s >= 0) && !t->has_exp)
		return WEFT_JWT_VERIFICATION;
	if (p->max_life_s >= 0 && t->exp > e->now_s && t->exp - e->now_s > (uint64_t)p->max_life_s)
		return WEFT_JWT_VERIFICATION;
	if (!audience_ok(r->own_audiences ? &r->audiences : &p->audiences, t->aud))
		return WEFT_JWT_AUDIENCE;
	return WEFT_JWT_OK;
}

/* The provider of an issuer among several: one of the list, else the first that names it, else the
 * first for any. */
static const struct jwt_provider *by_issuer(const struct jwt_eval *e, const struct jwt_req *r,
					    const char *iss)
{
	const struct jwt_conf *c = e->conf;
	const struct jwt_provider *any = NULL;

	for (size_t i = 0; i < r->n_providers; i++)
		if (*r->providers[i]->issuer && !strcmp(r->providers[i]->issuer, iss))
			return r->providers[i];
	for (size_t i = 0; i < c->n_providers; i++) {
		const struct jwt_provider *p = &c->providers[i];

		if (*p->issuer && !strcmp(p->issuer, iss))
			return p;
		if (!*p->issuer && !any)
			any = p;
	}
	return any;
}

/* May the token of this issuer stand at this place? */
static bool issuer_ok(const struct jwt_req *r, const struct token *from, const char *iss)
{
	for (size_t i = 0; i < r->n_providers; i++) {
		const struct jwt_provider *p = r->providers[i];

		for (size_t k = 0; k < p->n_locations; k++) {
			const struct jwt_location *l = &p->locations[k];

			if (l->kind == from->from->kind && !strcmp(l->name, from->from->name) &&
			    !strcmp(l->prefix, from->from->prefix) &&
			    (!*l->issuer || !strcmp(l->issuer, iss)))
				return true;
		}
	}
	return false;
}

static int keys_of(struct jwt_eval *e, const struct jwt_provider *p, struct weft_jwks **ret)
{
	if (!p->remote) {
		*ret = weft_jwks_ref(p->local);
		return *ret ? WEFT_JWT_OK : WEFT_JWT_JWKS_NO_VALID;
	}
	*ret = jwt_remote_get(p->remote);
	if (*ret)
		return WEFT_JWT_OK;
	for (const struct jwt_failed *f = e->failed; f; f = f->next)
		if (f->remote == p->remote)
			return WEFT_JWT_JWKS_FETCH;
	e->pending = p->remote;
	return JWT_PENDING;
}

static void count_cache(struct jwt_eval *e, bool hit)
{
	char name[128];

	snprintf(name, sizeof(name), "%sjwt_cache_%s", e->conf->prefix, hit ? "hit" : "miss");
	weft_scope_add_named(e->scope, name, 1);
}

/* p NULL: found by the token's issuer. *ret_p: which it was. */
static int check(struct jwt_eval *e, const struct jwt_req *r, const struct token *tok,
		 const struct jwt_provider **p)
{
	struct weft_worker *w = weft_stream_worker(e->s);
	const struct weft_jwt *t = NULL;
	struct weft_jwt *own = NULL;
	struct weft_jwks *keys = NULL;
	bool hit;
	int st;

	st = weft_jwt_parse(tok->s, tok->n, &own);
	if (st)
		return st;
	t = own;
	st = issuer_ok(r, tok, t->iss) ? WEFT_JWT_OK : WEFT_JWT_UNKNOWN_ISSUER;
	if (!st && !*p)
		*p = by_issuer(e, r, t->iss);
	if (!st && !*p)
		st = WEFT_JWT_UNKNOWN_ISSUER;
	if (!st)
		st = claims_ok(e, *p, r, t);
	if (!st)
		st = keys_of(e, *p, &keys);
	if (!st) {
		hit = jwt_cache_get(w, *p, tok->s, tok->n, keys) != NULL;
		count_cache(e, hit);
		st = hit ? WEFT_JWT_OK : (int)weft_jwt_verify(t, keys);
		if (!st)
			good(e, *p, tok, t);
		if (!st && !hit && (*p)->cache_size && tok->n <= (*p)->cache_token) {
			jwt_cache_put(w, *p, own, keys);
			own = NULL;
		}
	}
	weft_jwks_unref(keys);
	weft_jwt_free(own);
	return st;
}

/* ---- requirements */
/* All tokens that are there must be good: else the one that is not could be what the server behind
 * us believes. */
static int provider_eval(struct jwt_eval *e, const struct jwt_req *r)
{
	const struct jwt_provider *p = r->providers[0];
	struct tokens t = {.n = 0};
	int st = WEFT_JWT_OK;

	extract(e, p, &t);
	if (!t.n)
		st = WEFT_JWT_MISSED;
	else if (t.many)
		st = WEFT_JWT_MULTIPLE;
	for (size_t i = t.n; i-- > 0 && !st;)
		st = check(e, r, &t.v[i], &p);
	if (st > 0)
		bad(e, p, st);
	return st;
}

/* Tokens of any of the providers; FAILED lets all through, MISSING none at all or good ones. */
static int bypass_eval(struct jwt_eval *e, const struct jwt_req *r)
{
	struct tokens t = {.n = 0};
	int st = WEFT_JWT_OK, one;

	for (size_t i = 0; i < r->n_providers; i++)
		extract(e, r->providers[i], &t);
	if (t.many && r->kind == JWT_REQ_MISSING)
		return WEFT_JWT_MULTIPLE;
	for (size_t i = t.n; i-- > 0;) {
		const struct jwt_provider *p = NULL;

		one = check(e, r, &t.v[i], &p);
		if (one == JWT_PENDING)
			return one;
		if (one)
			bad(e, p, one);
		if (one && !st)
			st = one;
	}
	return r->kind == JWT_REQ_FAILED ? WEFT_JWT_OK : st;
}

static bool says_little(int st)
{
	return st == WEFT_JWT_MISSED || st == WEFT_JWT_UNKNOWN_ISSUER;
}

static int any_eval(struct jwt_eval *e, const struct jwt_req *r)
{
	int st = WEFT_JWT_OK, one;

	for (size_t i = 0; i < r->n; i++) {
		one = jwt_eval(e, &r->v[i]);
		if (one <= 0)
			return one;
		if (!st || says_little(st) || !says_little(one))
			st = one;
	}
	return st;
}

int jwt_eval(struct jwt_eval *e, const struct jwt_req *r)
{
	int st = WEFT_JWT_OK;

	switch (r->kind) {
	case JWT_REQ_ALLOW:
		return WEFT_JWT_OK;
	case JWT_REQ_PROVIDER:
		return provider_eval(e, r);
	case JWT_REQ_ANY:
		return any_eval(e, r);
	case JWT_REQ_ALL:
		for (size_t i = 0; i < r->n && !st; i++)
			st = jwt_eval(e, &r->v[i]);
		return st;
	default:
		return bypass_eval(e, r);
	}
}
