/* What code that turns a configuration message into something runnable needs: where results live,
 * where errors go, how an Any is read. Errors carry the field path; the caller at the top turns it
 * into file:line:col or "cds v17". Pure. */
#pragma once
#include "proxy/core/arena.h"
#include "proxy/core/err.h"
#include "xds/proto/wellknown.pb-c.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

struct weft_marks;
struct weft_cfg {
	struct weft_arena
		*arena; /* of the result; strings of messages must be copied into it where they are
			   kept, unless the messages themselves were unpacked into it */
	struct weft_errs
		*errs; /* every error found is added: go on after one where that makes sense */
	struct weft_errs *warns; /* findings that refuse nothing (unreachable route, deprecated
				    field); NULL: not wanted */
	const struct weft_marks *marks; /* of a file: knows the decoded messages of its Anys; NULL:
					   bytes from a server */
	bool file;			/* the bootstrap or a file named by it: may name paths */
	struct weft_errs *notes;	/* fields that are set and have no effect, with the
					   reason; NULL: not wanted */
	struct weft_marks *decoded;	/* of weft_cfg_any: what it decoded before, in arena; begin
					   with NULL */
	void *context; /* of the program that builds: struct weft_net_context in listeners; NULL
			  elsewhere */
};
/* Adds an error; -EINVAL. Say rule and value found: "must be 1..65535, is 70000". at may be NULL.
 */
int weft_cfg_fail(struct weft_cfg *c, const struct weft_path *at, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void weft_cfg_warn(struct weft_cfg *c, const struct weft_path *at, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The message inside any, living as long as c->arena. want NULL: any type that the registry has.
 * NULL: the error was added (another type than want, a type not known, broken bytes).
 * xds.type.v3.TypedStruct is read as the type it names. */
const ProtobufCMessage *weft_cfg_any(struct weft_cfg *c, const struct weft_path *at,
				     const Google__Protobuf__Any *any,
				     const ProtobufCMessageDescriptor *want);
/* An Any that holds m packed, in a. */
Google__Protobuf__Any *weft_cfg_any_new(struct weft_arena *a, const ProtobufCMessage *m);
/* "type.googleapis.com/envoy.x.Y" → descriptor, or NULL. All of test/protos/roots.txt. */
const ProtobufCMessageDescriptor *weft_cfg_type(const char *type_url);
/* The i-th of them, by name; NULL: no more. ret_name may be NULL. */
const ProtobufCMessageDescriptor *weft_cfg_types(size_t i, const char **ret_name);
/* A known type's full name that may be meant by one that is not known, or NULL. */
const char *weft_cfg_type_near(const char *type_url);

/* Once for each whole resource, before anything reads it: value rules (rules.def), and of every
 * field that is set whether it is acted on, without effect (told in c->notes) or refused
 * (xds/coverage/NAME.def; what stands in none is refused by name). Deprecated fields are told in
 * c->warns. Looks into Anys; one of a type that is not known is left alone where the message that
 * holds it says is_optional. 0, or -EINVAL with everything found in c->errs. Main thread only. */
enum { WEFT_CFG_MISSING = 61 /* ENODATA: code of errors about a field that must be there */ };
int weft_cfg_check(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m);

/* "file:line:col" into where of every error that has none, from its path in the document. */
struct weft_yaml_doc;
void weft_cfg_place_errs(const struct weft_yaml_doc *doc, struct weft_errs *errs);

/* Durations to ms, rounded up; dflt when d is NULL. */
int64_t weft_cfg_ms(const Google__Protobuf__Duration *d, int64_t dflt);
uint32_t weft_cfg_u32(const Google__Protobuf__UInt32Value *v, uint32_t dflt);
bool weft_cfg_bool(const Google__Protobuf__BoolValue *v, bool dflt);
