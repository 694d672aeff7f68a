// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Reads lines at numbered prompts until EOF or `exit`. Built in four variants:
 *   -lreadline            a program that uses libreadline, like gdb
 *   -lreadline -DBASH     with the functions that identify bash, like a bash that links against libreadline
 *   -DOWN                 with its own readline(), so that no other file is traced
 *   -DOWN -DBASH -static  like a bash that is linked statically
 * The second and the third need -rdynamic.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef OWN
__attribute__((noinline)) char *readline(const char *prompt)
{
	char *line = NULL;
	size_t room = 0;
	ssize_t len;

	fputs(prompt, stdout);
	fflush(stdout);
	len = getline(&line, &room, stdin);
	if (len < 0)
		return NULL;
	line[strcspn(line, "\n")] = 0;
	return line;
}
#else
#include <readline/readline.h>
#endif

#ifdef BASH
int execute_command(void *command)
{
	return command != NULL;
}

char *pre_process_line(char *line, int print_changes, int addit)
{
	(void)print_changes;
	(void)addit;
	return line;
}
#endif

int main(void)
{
	char prompt[32];
	char *line;

	for (int number = 1;; number++) {
		snprintf(prompt, sizeof(prompt), "prompt-%d> ", number);
		line = readline(prompt);
		if (!line || !strcmp(line, "exit"))
			return 0;
		free(line);
	}
}
