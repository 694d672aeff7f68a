// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// old_version COUNT: calls posix_spawn COUNT times, in the version that programs have from before glibc 2.15.
#include <spawn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>

int spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
	  char *const arguments[], char *const environment[]);
__asm__(".symver spawn, posix_spawn@GLIBC_2.2.5");

int main(int argc, char **argv)
{
	char *arguments[] = { "true", NULL };

	for (int i = argc > 1 ? atoi(argv[1]) : 0; i; i--) {
		pid_t child;

		if (spawn(&child, "/bin/true", NULL, NULL, arguments, NULL))
			return 1;
		waitpid(child, NULL, 0);
	}
	return 0;
}
