/* Every message of the configuration, and generated pages: what a test makes from them must be what
 * stands in the repository; WEFT_GOLDEN_UPDATE=1 writes it anew. For tests of xds/. */
#pragma once
#include "xds/cfg_priv.h"
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MESSAGES_MAX = 2000 };
static const ProtobufCMessageDescriptor *all[MESSAGES_MAX];
static size_t n_all;

static void reach(const ProtobufCMessageDescriptor *d)
{
	for (size_t i = 0; i < n_all; i++)
		if (all[i] == d)
			return;
	assert_true(n_all < MESSAGES_MAX);
	all[n_all++] = d;
	for (unsigned i = 0; i < d->n_fields; i++)
		if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
			reach(d->fields[i].descriptor);
}

static int order(const void *a, const void *b)
{
	const ProtobufCMessageDescriptor *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static int types_setup(void **state)
{
	const ProtobufCMessageDescriptor *d;

	for (size_t i = 0; (d = weft_cfg_types(i, NULL)); i++)
		reach(d);
	qsort(all, n_all, sizeof(all[0]), order);
	return 0;
}

__attribute__((unused)) static const ProtobufCMessageDescriptor *message(const char *name)
{
	for (size_t i = 0; i < n_all; i++)
		if (!strcmp(all[i]->name, name))
			return all[i];
	return NULL;
}

static bool is_entry(const ProtobufCMessageDescriptor *d)
{
	size_t n = strlen(d->short_name);

	return n > 5 && !strcmp(d->short_name + n - 5, "Entry") && d->n_fields == 2 &&
	       !strcmp(d->fields[0].name, "key");
}

/* Configuration, rather than answers, calls and what needs no coverage. */
static bool is_told(const ProtobufCMessageDescriptor *d)
{
	static const char *const other[] = {"google.", "envoy.admin.", "envoy.service."};

	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++)
		if (!strncmp(d->name, other[i], strlen(other[i])))
			return false;
	return !is_entry(d);
}

static char *slurp(const char *path)
{
	FILE *f = fopen(path, "r"), *out;
	char *text = NULL, buf[4096];
	size_t n, got;

	out = open_memstream(&text, &n);
	assert_non_null(out);
	while (f && (got = fread(buf, 1, sizeof(buf), f)) > 0)
		fwrite(buf, 1, got, out);
	if (f)
		fclose(f);
	fclose(out);
	return text;
}

/* cmocka shows whole texts; the first line that differs is enough. */
static void first_difference(const char *path, const char *have, const char *want)
{
	size_t i = 0, line = 1, start = 0;

	for (; have[i] && have[i] == want[i]; i++) {
		if (have[i] != '\n')
			continue;
		line++;
		start = i + 1;
	}
	if (have[i] != want[i])
		fail_msg("%s:%zu: is old (make golden-update): has \"%.*s\", should be \"%.*s\"",
			 path, line, (int)strcspn(have + start, "\n"), have + start,
			 (int)strcspn(want + start, "\n"), want + start);
}

/* dir: from the environment, or where it is from the root of the repository. want is freed. */
static void page_compare(const char *dir, const char *name, char *want)
{
	char path[PATH_MAX + 64], *have;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (getenv("WEFT_GOLDEN_UPDATE")) {
		f = fopen(path, "w");
		assert_non_null(f);
		fputs(want, f);
		assert_int_equal(fclose(f), 0);
	}
	have = slurp(path);
	first_difference(path, have, want);
	free(have);
	free(want);
}
