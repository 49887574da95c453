/* Runs a fuzzer's function over the files of a corpus folder, without the fuzzer: a test point a
 * file. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUT_MAX = 4 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int replay(const char *dir, const char *name)
{
	uint8_t *exact, *buf = malloc(INPUT_MAX);
	char path[512];
	size_t n;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "rb");
	if (!f || !buf) {
		perror(path);
		free(buf);
		return -1;
	}
	n = fread(buf, 1, INPUT_MAX, f);
	fclose(f);
	/* a block of the very size, so that reading one byte more is seen */
	exact = malloc(n ? n : 1);
	if (exact) {
		memcpy(exact, buf, n);
		LLVMFuzzerTestOneInput(exact, n);
	}
	free(exact);
	free(buf);
	return 0;
}

int main(int argc, char **argv)
{
	struct dirent **v;
	int count = argc == 2 ? scandir(argv[1], &v, NULL, alphasort) : -1, n = 0, bad = 0;

	for (int i = 0; i < count; i++) {
		if (v[i]->d_name[0] != '.') {
			int err = replay(argv[1], v[i]->d_name);

			bad |= err;
			printf("%s %d - %s\n", err ? "not ok" : "ok", ++n, v[i]->d_name);
			fflush(stdout);
		}
		free(v[i]);
	}
	if (count >= 0)
		free(v);
	printf("1..%d\n", n);
	if (!n)
		printf("# no seeds in %s\n", argc == 2 ? argv[1] : "(no folder)");
	return bad || !n;
}
