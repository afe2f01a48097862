/* The program of the containers, linked statically. "probe" is for the node itself: it tries to run a copy of itself from
 * each place that can be written. Other words are printed, and name the container. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const places[] = { "/var/lib/copy", "/run/copy", "/tmp/copy", "/dev/shm/copy", "/run/containerd/copy",
				      "/var/lib/containerd/copy" };

/* Where a container with a read-only root can write. */
static const char *const own_places[] = { "/run/copy", "/dev/copy", "/dev/shm/copy" };
/* Where containerd's interface of Kubernetes keeps its state. */
static const char *const cri = "/var/lib/containerd/io.containerd.grpc.v1.cri";

/* Copies this program to a path and runs the copy: "ran", "refused", or why it could not be tried. */
static const char *run_copy(const char *path)
{
	struct stat self;
	int status, from = open("/proc/self/exe", O_RDONLY), to = open(path, O_CREAT | O_WRONLY, 0755);
	if (from < 0 || to < 0 || fstat(from, &self) || sendfile(to, from, NULL, self.st_size) != self.st_size)
		return strerror(errno);
	close(to);
	if (!fork()) {
		execl(path, path, "true", NULL);
		_exit(errno == EACCES ? 50 : 51);
	}
	wait(&status);
	return status == 0 ? "ran" : status == 50 << 8 ? "refused" : "ended otherwise";
}

/* What the program is in: its processes, its root, how that is mounted, and where a copy of it runs. */
static void show(const char *container)
{
	char line[512];
	DIR *root = opendir("/");
	printf("WORKLOAD pid %d, root:", getpid());
	for (struct dirent *entry; root && (entry = readdir(root));)
		if (entry->d_name[0] != '.')
			printf(" %s", entry->d_name);
	printf("\n");
	FILE *mounts = fopen("/proc/self/mounts", "r");
	while (mounts && fgets(line, sizeof line, mounts))
		if (strstr(line, " / "))
			printf("WORKLOAD mount %.60s\n", strtok(line, "\n"));
	printf("WORKLOAD copy in the root: %s\n", run_copy("/copy"));
	for (size_t i = 0; i < sizeof own_places / sizeof *own_places; i++)
		printf("WORKLOAD %s, %s: %s\n", container, own_places[i], run_copy(own_places[i]));
}

int main(int count, char **words)
{
	const char *what = count > 1 ? words[1] : "show";
	setvbuf(stdout, NULL, _IONBF, 0);
	if (!strcmp(what, "true"))
		return 0;
	if (!strcmp(what, "fail"))
		return 3;
	if (strcmp(what, "probe"))
		show(what);
	else {
		for (size_t i = 0; i < sizeof places / sizeof *places; i++)
			printf("PROBE %s: %s\n", places[i], run_copy(places[i]));
		printf("PROBE CRI: %s\n", access(cri, F_OK) ? "off" : "on");
	}
	return 0;
}
