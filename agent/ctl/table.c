#include "agent/ctl/ctl.h"
#include "proxy/core/arena.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct weft_table {
	size_t cols, rows;
	char **cells; /* rows × cols; row 0 is the heads */
};

struct weft_table *weft_table_new(const char *const *heads, size_t n)
{
	struct weft_table *t = weft_xcalloc(1, sizeof(*t));

	t->cols = n;
	weft_table_row(t, heads);
	return t;
}

void weft_table_row(struct weft_table *t, const char *const *cells)
{
	size_t i;

	t->cells = weft_xrealloc(t->cells, (t->rows + 1) * t->cols * sizeof(*t->cells));
	for (i = 0; i < t->cols; i++)
		t->cells[t->rows * t->cols + i] =
			weft_xstrdup(cells[i] && *cells[i] ? cells[i] : "-");
	t->rows++;
}

void weft_table_print(struct weft_table *t)
{
	size_t i, j;

	for (i = 0; t->rows > 1 && i < t->rows; i++) {
		for (j = 0; j < t->cols; j++) {
			size_t width = 0, k;

			for (k = 0; k < t->rows; k++) {
				size_t n = strlen(t->cells[k * t->cols + j]);

				width = n > width ? n : width;
			}
			printf("%s%-*s", j ? "  " : "", j + 1 < t->cols ? (int)width : 0,
			       t->cells[i * t->cols + j]);
		}
		putchar('\n');
	}
	for (i = 0; i < t->rows * t->cols; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}
