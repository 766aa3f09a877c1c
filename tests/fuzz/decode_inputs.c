/* Decodes JPEGs from standard input with all functions of the C library, as the loader and the
 * conversion call them; built with sanitizers. For each input a line is expected: its number of
 * bytes, and the height and width to ask for; then its bytes. A byte is answered: the status of the
 * full decode, or 1 where its image is too large for this program.
 * The first one must be a JPEG that the fast decoder agrees about with libjpeg's own.
 *
 * With the argument "arithmetic", one JPEG is read and written again with arithmetic coding. */

#include "../../data_pipeline/native/pixels.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <jpeglib.h>

#define PAGE_BYTES 4096
#define FILL 0xA5
#define NUM_VIEWS 6
#define MAX_SIDE 48
#define MAX_PIXELS (1 << 22)
#define TOO_LARGE 1

/* Of AddressSanitizer, whose headers come with another compiler's package. */
size_t __sanitizer_get_current_allocated_bytes(void);

int32_t pixels_view_jpeg(const uint8_t *, int64_t, int64_t, int64_t, const View *, int32_t,
                         uint8_t *);
int32_t pixels_view_jpeg_twice(const uint8_t *, int64_t, int64_t, int64_t, const View *, int32_t,
                               int32_t, uint8_t *, uint8_t *);
int32_t pixels_decode_jpeg(const uint8_t *, int64_t, int64_t, int64_t, uint8_t *);
int32_t pixels_view_raw(const uint8_t *, int64_t, const View *, int32_t, uint8_t *);
int32_t pixels_measure_jpeg(const uint8_t *, int64_t, int64_t, int64_t, uint64_t *);
int32_t pixels_check_jpeg(const uint8_t *, int64_t, int64_t, int64_t);
int32_t pixels_describe_jpeg(const uint8_t *, int64_t, int64_t *);
int32_t pixels_check_decoder(const uint8_t *, int64_t, const uint8_t *, int64_t, int64_t, int64_t);

static void require(int condition, const char *fault) {
    if (condition) return;
    fprintf(stderr, "ERROR: %s\n", fault);
    abort();
}

/* Memory between pages that cannot be accessed, also not by code without sanitizers (libjpeg). */
typedef struct {
    uint8_t *start;
    size_t num_mapped, num_bytes;
} Guarded;

static uint8_t *guarded_bytes(const Guarded *memory) {
    return memory->start + memory->num_mapped - PAGE_BYTES - memory->num_bytes;
}

static Guarded guard(size_t num_bytes) {
    size_t num_inside = (num_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    size_t num_mapped = num_inside + 2 * PAGE_BYTES;
    uint8_t *start =
        mmap(NULL, num_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(start != MAP_FAILED, "no memory for this program");
    memset(start + PAGE_BYTES, FILL, num_inside - num_bytes);
    mprotect(start, PAGE_BYTES, PROT_NONE);
    mprotect(start + num_mapped - PAGE_BYTES, PAGE_BYTES, PROT_NONE);
    return (Guarded){start, num_mapped, num_bytes};
}

static void release(Guarded memory) {
    for (uint8_t *byte = memory.start + PAGE_BYTES; byte < guarded_bytes(&memory); byte++) {
        require(*byte == FILL, "bytes before the output were changed");
    }
    munmap(memory.start, memory.num_mapped);
}

/* Numbers that depend on the input alone. */
static uint64_t random_state;

static int64_t random_below(int64_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (int64_t)(random_state % (uint64_t)limit);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* As decoders.center_view: the shorter side is resized, and a square is cut from the center. */
static View center_view(int64_t height, int64_t width) {
    int64_t crop = 1 + random_below(MAX_SIDE), resize = crop + random_below(9);
    int64_t shorter = smaller(height, width);
    int64_t resized_height = resize * height / shorter, resized_width = resize * width / shorter;
    return (View){0, 0, height, width, resized_height, resized_width,
                  (resized_height - crop) / 2, (resized_width - crop) / 2, crop, crop};
}

/* As decoders.random_box: any box is resized to a square. */
static View box_view(int64_t height, int64_t width) {
    int64_t box_height = 1 + random_below(height), box_width = 1 + random_below(width);
    int64_t size = 1 + random_below(MAX_SIDE);
    int64_t top = random_below(height - box_height + 1), left = random_below(width - box_width + 1);
    return (View){top, left, box_height, box_width, size, size, 0, 0, size, size};
}

static void cut_views(const uint8_t *data, int64_t num_bytes, int64_t height, int64_t width,
                      int is_raw) {
    for (int i = 0; i < NUM_VIEWS; i++) {
        View view = i < 2 ? center_view(height, width) : box_view(height, width);
        Guarded out = guard((size_t)(3 * view.window_height * view.window_width));
        if (is_raw) {
            pixels_view_raw(data, width, &view, i % 2, guarded_bytes(&out));
        } else {
            pixels_view_jpeg(data, num_bytes, height, width, &view, i % 2, guarded_bytes(&out));
        }
        release(out);
    }
}

/* As view_pairs.py: two boxes of one image. */
static void cut_view_pairs(const uint8_t *data, int64_t num_bytes, int64_t height, int64_t width) {
    for (int i = 0; i < NUM_VIEWS / 2; i++) {
        View views[2] = {box_view(height, width), box_view(height, width)};
        Guarded first = guard((size_t)(3 * views[0].window_height * views[0].window_width));
        Guarded second = guard((size_t)(3 * views[1].window_height * views[1].window_width));
        pixels_view_jpeg_twice(data, num_bytes, height, width, views, i % 2, 1,
                               guarded_bytes(&first), guarded_bytes(&second));
        release(first);
        release(second);
    }
}

/* The input as raw pixels of the width that is asked for. */
static void cut_raw_views(const uint8_t *data, int64_t num_bytes, int64_t width) {
    int64_t height = smaller(num_bytes / (3 * width), UINT16_MAX);
    if (height == 0) return;
    uint8_t *pixels = malloc((size_t)(3 * height * width));
    memcpy(pixels, data, (size_t)(3 * height * width));
    cut_views(pixels, 0, height, width, 1);
    free(pixels);
}

static int32_t decode_full(const uint8_t *data, int64_t num_bytes, int64_t height, int64_t width) {
    if (height * width > MAX_PIXELS) return TOO_LARGE;
    Guarded out = guard((size_t)(3 * height * width));
    int32_t status = pixels_decode_jpeg(data, num_bytes, height, width, guarded_bytes(&out));
    release(out);
    return status;
}

static int32_t decode_all(const uint8_t *data, int64_t num_bytes, int64_t height, int64_t width) {
    int64_t size[2];
    uint64_t sums[6];
    int32_t described = pixels_describe_jpeg(data, num_bytes, size);
    int32_t checked = pixels_check_jpeg(data, num_bytes, height, width);
    pixels_measure_jpeg(data, num_bytes, height, width, sums);
    int32_t status = decode_full(data, num_bytes, height, width);
    if (described == PIXELS_OK && size[0] == height && size[1] == width) {
        require(checked == PIXELS_OK, "an image is described that does not decode");
        require(status == PIXELS_OK || status == TOO_LARGE, "an image that is described is not decoded");
    }
    if (height * width <= MAX_PIXELS) {
        cut_views(data, num_bytes, height, width, 0);
        cut_view_pairs(data, num_bytes, height, width);
        cut_raw_views(data, num_bytes, width);
    }
    return status;
}

static int decode_inputs(void) {
    int64_t num_bytes, height, width;
    int is_first = 1;
    while (scanf("%" SCNd64 "%" SCNd64 "%" SCNd64, &num_bytes, &height, &width) == 3) {
        getchar();
        /* Of exactly this size, so that reading past its end is found. */
        uint8_t *data = malloc((size_t)num_bytes);
        require(fread(data, 1, (size_t)num_bytes, stdin) == (size_t)num_bytes, "input ends early");
        random_state = 88172645463325252u;
        for (int64_t i = 0; i < num_bytes; i++) random_state = 31 * random_state + data[i] + 1;
        random_state |= 1;
        size_t before = __sanitizer_get_current_allocated_bytes();
        if (is_first) {
            int32_t agrees = pixels_check_decoder(data, num_bytes, data, num_bytes, height, width);
            require(agrees == PIXELS_OK, "the fast decoder is not used");
            is_first = 0;
        }
        int32_t status = decode_all(data, num_bytes, height, width);
        require(__sanitizer_get_current_allocated_bytes() == before, "memory is not freed");
        free(data);
        putchar(status & 255);
        fflush(stdout);
    }
    return 0;
}

static int write_arithmetic(void) {
    struct jpeg_error_mgr errors;
    struct jpeg_decompress_struct from = {0};
    struct jpeg_compress_struct to = {0};
    from.err = to.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&from);
    jpeg_create_compress(&to);
    jpeg_stdio_src(&from, stdin);
    jpeg_stdio_dest(&to, stdout);
    jpeg_read_header(&from, TRUE);
    jvirt_barray_ptr *coefficients = jpeg_read_coefficients(&from);
    jpeg_copy_critical_parameters(&from, &to);
    to.arith_code = TRUE;
    jpeg_write_coefficients(&to, coefficients);
    jpeg_finish_compress(&to);
    jpeg_destroy_compress(&to);
    jpeg_destroy_decompress(&from);
    return 0;
}

int main(int argc, char **argv) {
    return argc > 1 && !strcmp(argv[1], "arithmetic") ? write_arithmetic() : decode_inputs();
}
