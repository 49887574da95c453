/* How configuration messages are checked: what each descriptor's rules and classes are. Private to
 * xds/. Main thread. */
#pragma once
#include "xds/cfg.h"

enum cfg_rule_kind {
	RULE_REQUIRED,
	RULE_ONEOF,
	RULE_IGNORE_EMPTY,
	RULE_DEFINED,
	RULE_NOT_IN,
	RULE_CONST,
	RULE_GT,
	RULE_GTE,
	RULE_LT,
	RULE_LTE,
	RULE_DUR_GT,
	RULE_DUR_GTE,
	RULE_DUR_LT,
	RULE_DUR_LTE,
	RULE_MIN_LEN,
	RULE_MAX_LEN,
	RULE_MIN_ITEMS,
	RULE_MAX_ITEMS,
	RULE_UNIQUE,
	RULE_HEADER_NAME,
	RULE_HEADER_VALUE,
	RULE_PREFIX,
	RULE_SUFFIX,
	RULE_CONTAINS,
	RULE_NOT_CONTAINS,
	RULE_PATTERN,
	RULE_ONE_OF,
	RULE_ANY_OF,
};
struct cfg_rule {
	const char *message, *field;
	enum cfg_rule_kind kind;
	double number;
	const char *text;
};
struct cfg_rules {
	const struct cfg_rule *v;
	size_t n;
};
/* All rules of a message, ordered by field. */
struct cfg_rules cfg_rules_of(const char *message);
/* Those of one field name ("x", "x[]", "x{key}") among all of a message. */
struct cfg_rules cfg_rules_pick(struct cfg_rules all, const char *field, const char *suffix);

enum cfg_class { CFG_REFUSED, CFG_ACTED, CFG_QUIET };
/* One line of xds/coverage; fields are separated by blanks. */
struct cfg_cover {
	const char *message, *fields, *because; /* because NULL: acted on */
};
const struct cfg_cover *cfg_covers(size_t *ret_n);
/* Whether the blank-separated list has the word. */
bool cfg_word(const char *list, const char *word, size_t n);
/* What to use instead of a deprecated field; NULL: not known. */
const char *cfg_replacement(const char *message, const char *field);

enum cfg_form { CFG_SCALAR, CFG_MESSAGE, CFG_MAP, CFG_ANY, CFG_WRAPPER, CFG_DURATION, CFG_OPAQUE };
struct cfg_field {
	const ProtobufCFieldDescriptor *f;
	enum cfg_class class;
	const char *because;
	enum cfg_form form; /* of each item */
	struct cfg_rules rules, items, keys;
	struct cfg_kind *sub; /* of CFG_MESSAGE, and of a map's entry; found when first met */
	bool always;	      /* has a rule that an unset value can break */
};
/* What is known of a descriptor. Kept until the process ends. */
struct cfg_kind {
	const ProtobufCMessageDescriptor *d;
	struct cfg_field *fields; /* as in d */
	struct cfg_rules rules;	  /* of the whole message: those of oneofs are looked for here */
	size_t n_oneofs;
	int is_optional; /* the index of a field of this name, or -1 */
};
struct cfg_kind *cfg_kind_of(const ProtobufCMessageDescriptor *d);
enum cfg_form cfg_form_of(const ProtobufCFieldDescriptor *f);

struct cfg_walk {
	struct weft_cfg *c;
	int depth, anys, n_errors;
};
/* The last error is of the kind that nobody may build on: WEFT_CFG_MISSING. */
void cfg_unsound(struct cfg_walk *w);
void cfg_bad(struct cfg_walk *w, const struct weft_path *at, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* One value, where it stands in memory, against the rules of its field. */
void cfg_rules_value(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
		     const ProtobufCFieldDescriptor *f, const void *v);
/* The number of items, and that no two are the same. */
void cfg_rules_list(struct cfg_walk *w, const struct weft_path *at, struct cfg_rules r,
		    const ProtobufCFieldDescriptor *f, const void *v, size_t n);
