/* Checks of RequestAuthentication, the object by itself. */
#include "xds/check_priv.h"
#include <jansson.h>
#include <string.h>

enum { RULES_MAX = 64 };

/* A set of keys, or why not. */
static const char *bad_jwks(const char *text)
{
	json_error_t e;
	json_t *j = json_loads(text, 0, &e);
	const char *why = NULL;

	if (!j)
		return "is not JSON";
	if (!json_is_array(json_object_get(j, "keys")))
		why = "has no list \"keys\"";
	json_decref(j);
	return why;
}

static void check_jwt_rule(struct check *c, const struct weft_path *at,
			   const Weft__Kube__JwtRule *r)
{
	const struct weft_path jwks = {at, "jwks", -1}, uri = {at, "jwksUri", -1};
	const char *bad = r->jwks ? bad_jwks(r->jwks) : NULL;

	check_required(c, at, r, "issuer", "issuer", r->issuer);
	if (!r->jwks && !r->jwks_uri)
		check_bad(
			c, check_at(c, r, NULL, -1), &uri,
			"one of jwks, jwksUri is required: keys are not looked for at the issuer");
	if (r->jwks && r->jwks_uri)
		check_bad(c, check_at(c, r, "jwks", -1), &jwks, "cannot stand beside jwksUri");
	if (bad)
		check_bad(c, check_at(c, r, "jwks", -1), &jwks, "must be a JWKS: %s", bad);
	if (r->jwks_uri && strncmp(r->jwks_uri, "http://", 7) != 0 &&
	    strncmp(r->jwks_uri, "https://", 8) != 0)
		check_bad(c, check_at(c, r, "jwks_uri", -1), &uri,
			  "must begin with http:// or https://, is \"%.80s\"", r->jwks_uri);
	for (size_t i = 0; i < r->n_from_headers; i++)
		check_required(c, &(struct weft_path){at, "fromHeaders", (int)i},
			       r->from_headers[i], "name", "name", r->from_headers[i]->name);
	for (size_t i = 0; i < r->n_output_claim_to_headers; i++) {
		const Weft__Kube__ClaimToHeader *h = r->output_claim_to_headers[i];
		const struct weft_path p = {at, "outputClaimToHeaders", (int)i};

		check_required(c, &p, h, "header", "header", h->header);
		check_required(c, &p, h, "claim", "claim", h->claim);
	}
	if (r->timeout && (r->timeout->seconds < 0 || (!r->timeout->seconds && !r->timeout->nanos)))
		check_bad(c, check_at(c, r, "timeout", -1), &(struct weft_path){at, "timeout", -1},
			  "must be more than 0s");
}

void check_request_authentication(struct check *c)
{
	const Weft__Kube__RequestAuthenticationSpec *s =
		((const Weft__Kube__RequestAuthentication *)c->o->msg)->spec;
	const struct weft_path up = {NULL, "spec", -1};

	check_meta(c, false);
	check_policy_targets(c, &up, s->selector, s->target_ref, s->target_refs, s->n_target_refs);
	if (!s->target_ref && !s->n_target_refs)
		check_note(
			c, check_at(c, s, NULL, -1), &up,
			"without targetRefs it is for no waypoint and has no effect: node proxies "
			"see no tokens");
	if (s->n_jwt_rules > RULES_MAX)
		check_bad(c, check_at(c, s, "jwt_rules", -1),
			  &(struct weft_path){&up, "jwtRules", -1}, "must have at most %d, has %zu",
			  RULES_MAX, s->n_jwt_rules);
	for (size_t i = 0; i < s->n_jwt_rules; i++)
		check_jwt_rule(c, &(struct weft_path){&up, "jwtRules", (int)i}, s->jwt_rules[i]);
}
