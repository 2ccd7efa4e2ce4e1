/* The physical limit of planning: open, read and hash every file of some trees.
 *
 *   limit FOLDER...
 *
 * One process for each folder. It walks the tree by directory handles, follows no link, and takes
 * the SHA-256 of each file's bytes; it sorts nothing, compares nothing and reports nothing but, for
 * each folder, how many files and bytes it has seen and the exclusive-or of all digests.
 *
 * The digests are libcrypto's, the library that Python's hashlib uses. Its few functions are declared
 * here, so that its headers need not be installed: cc -O2 limit.c -l:libcrypto.so.3
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern void *EVP_MD_CTX_new(void);
extern void *EVP_MD_fetch(void *library, const char *name, const char *properties);
extern int EVP_DigestInit_ex2(void *context, const void *digest, const void *parameters);
extern int EVP_DigestUpdate(void *context, const void *bytes, size_t length);
extern int EVP_DigestFinal_ex(void *context, unsigned char *result, unsigned int *length);

static void *context, *sha256;
static unsigned char sum[32];
static unsigned long files, bytes;
static char buffer[1 << 18];

static void hash(int folder, const char *name) {
  unsigned char digest[32];
  ssize_t got;
  int file = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) err(1, "%s", name);
  if (EVP_DigestInit_ex2(context, sha256, NULL) != 1) errx(1, "libcrypto has no SHA-256");
  while ((got = read(file, buffer, sizeof buffer)) > 0) {
    EVP_DigestUpdate(context, buffer, got);
    bytes += got;
  }
  if (got < 0) err(1, "%s", name);
  close(file);
  EVP_DigestFinal_ex(context, digest, NULL);
  for (int i = 0; i < 32; i++) sum[i] ^= digest[i];
  files++;
}

static void walk(int handle) {
  struct dirent *entry;
  DIR *folder = fdopendir(handle);
  if (!folder) err(1, "opendir");
  while ((entry = readdir(folder))) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (entry->d_type == DT_DIR) {
      int below = openat(handle, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (below < 0) err(1, "%s", entry->d_name);
      walk(below);
    } else if (entry->d_type == DT_REG) {
      hash(handle, entry->d_name);
    }
  }
  closedir(folder);
}

int main(int count, char **folders) {
  int status, failed = 0;
  for (int i = 1; i < count; i++) {
    if (fork()) continue;
    int root = open(folders[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) err(1, "%s", folders[i]);
    context = EVP_MD_CTX_new();
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    walk(root);
    printf("%lu files, %lu bytes, ", files, bytes);
    for (int j = 0; j < 32; j++) printf("%02x", sum[j]);
    printf("\n");
    return 0;
  }
  while (wait(&status) > 0) failed |= status;
  return failed ? 1 : 0;
}
