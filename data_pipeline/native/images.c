/* Stored images: JPEG through libjpeg-turbo, or raw RGB. Only what a view needs is decoded. */

#include "huffman.h"
#include "pixels.h"

#include <setjmp.h>
#include <smmintrin.h>
#include <stdlib.h>
#include <string.h>

#include <jerror.h>

/* Neighbors that chroma upsampling reads beyond the requested columns: with them, a partial decode
 * gives the same bytes as a full one. */
#define UPSAMPLING_MARGIN 2
#define ROWS_PER_READ 8
/* As in beton_checks.py. */
#define MAX_PIXELS (1 << 26)
/* Each scan of a progressive JPEG passes over all pixels, however few bytes it has. Encoders write
 * about ten. */
#define MAX_SCANS 50
/* blend_rows reads 16 bytes at a time. */
#define READ_PAST_END 16

/* Markers of an image that may be rotated, or be one of several in its file. */
#define EXIF_MARKER (JPEG_APP0 + 1)
#define MULTI_PICTURE_MARKER (JPEG_APP0 + 2)
#define MARKER_NAME_BYTES 4

/* Until pixels_check_decoder has found that it agrees with libjpeg's own decoder. */
static int32_t fast_is_trusted = 0;

/* A height of 0 means any size. */
typedef struct {
    const uint8_t *data;
    int64_t num_bytes, height, width;
} Jpeg;

typedef struct {
    const View *view;
    int32_t mirrored;
    uint8_t *out;
} ViewRequest;

typedef struct {
    const ViewRequest *views;
    int count;
} ViewRequests;

/* How a callback reports an error: damaged, or to be retried with libjpeg's own Huffman decoder,
 * which decides about unusual files. */
enum { FAILED_DAMAGED = 1, FAILED_UNUSUAL = 2 };

typedef struct {
    struct jpeg_error_mgr errors; /* first: libjpeg passes its address to callbacks */
    jmp_buf failure;
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct info;
    FastHuffman *huffman;
    uint8_t *pixels; /* freed with the rest */
} Decoder;

static void fail_damaged(j_common_ptr info) {
    longjmp(((Decoder *)info->err)->failure, FAILED_DAMAGED);
}

static void fail_unusual(j_common_ptr info) {
    longjmp(((Decoder *)info->err)->failure, FAILED_UNUSUAL);
}

/* Like Pillow: unusual but complete data passes, data that ends too early fails. */
static void fail_if_truncated(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) fail_damaged(info);
}

/* Called for each row of blocks while libjpeg reads scans. */
static void fail_if_many_scans(j_common_ptr info) {
    if (((j_decompress_ptr)info)->input_scan_number > MAX_SCANS) fail_damaged(info);
}

/* Reads the header and prepares to read rows. False if the image has another size, or is too large.
 * The size is compared first: a progressive JPEG is decoded to memory for all of its pixels at once. */
static int start(Decoder *decoder, const Jpeg *jpeg, J_COLOR_SPACE colors, int fast) {
    struct jpeg_decompress_struct *info = &decoder->info;
    jpeg_create_decompress(info);
    decoder->progress.progress_monitor = fail_if_many_scans;
    info->progress = &decoder->progress;
    jpeg_mem_src(info, jpeg->data, (unsigned long)jpeg->num_bytes);
    if (jpeg->height == 0) {
        jpeg_save_markers(info, EXIF_MARKER, MARKER_NAME_BYTES);
        jpeg_save_markers(info, MULTI_PICTURE_MARKER, MARKER_NAME_BYTES);
    }
    jpeg_read_header(info, TRUE);
    int is_other = info->image_height != jpeg->height || info->image_width != jpeg->width;
    if (jpeg->height != 0 && is_other) return 0;
    if ((int64_t)info->image_height * info->image_width > MAX_PIXELS) return 0;
    info->out_color_space = colors;
    info->dct_method = JDCT_ISLOW;
    jpeg_start_decompress(info);
    if (fast) decoder->huffman = fast_huffman_install(info, fail_unusual);
    return 1;
}

static void read_rows(struct jpeg_decompress_struct *info, uint8_t *pixels, int64_t stride,
                      int64_t num_rows) {
    JSAMPROW rows[ROWS_PER_READ];
    for (int64_t done = 0; done < num_rows;) {
        int64_t count = num_rows - done < ROWS_PER_READ ? num_rows - done : ROWS_PER_READ;
        for (int64_t i = 0; i < count; i++) rows[i] = pixels + (done + i) * stride;
        done += jpeg_read_scanlines(info, rows, (JDIMENSION)count);
    }
}

static Extent union_of(Extent a, Extent b) {
    return (Extent){a.top < b.top ? a.top : b.top, a.left < b.left ? a.left : b.left,
                    a.bottom > b.bottom ? a.bottom : b.bottom,
                    a.right > b.right ? a.right : b.right};
}

/* Rows above all views are skipped, rows below are not reached, and columns outside them are not
 * transformed. */
static int32_t decode_views(Decoder *decoder, const void *request) {
    const ViewRequests *wanted = request;
    struct jpeg_decompress_struct *info = &decoder->info;
    Extent extent = view_extent(wanted->views[0].view);
    for (int i = 1; i < wanted->count; i++)
        extent = union_of(extent, view_extent(wanted->views[i].view));
    JDIMENSION left =
        extent.left > UPSAMPLING_MARGIN ? (JDIMENSION)extent.left - UPSAMPLING_MARGIN : 0;
    JDIMENSION right = (JDIMENSION)extent.right + UPSAMPLING_MARGIN;
    JDIMENSION count = (right < info->output_width ? right : info->output_width) - left;
    /* Extends left and count to whole blocks. */
    if (count < info->output_width) jpeg_crop_scanline(info, &left, &count);
    if (extent.top > 0) jpeg_skip_scanlines(info, (JDIMENSION)extent.top);
    int64_t stride = 4 * (int64_t)info->output_width, num_rows = extent.bottom - extent.top;
    decoder->pixels = malloc((size_t)(num_rows * stride + READ_PAST_END));
    if (!decoder->pixels) return PIXELS_NO_MEMORY;
    read_rows(info, decoder->pixels, stride, num_rows);
    Region region = {decoder->pixels, stride, extent.top, left};
    int32_t status = PIXELS_OK;
    for (int i = 0; i < wanted->count && status == PIXELS_OK; i++) {
        const ViewRequest *one = &wanted->views[i];
        status = resample(&region, one->view, one->mirrored, one->out);
    }
    return status;
}

static int32_t decode_full(Decoder *decoder, const void *request) {
    const struct jpeg_decompress_struct *info = &decoder->info;
    uint8_t *const *out = request;
    read_rows(&decoder->info, *out, 3 * (int64_t)info->output_width, info->output_height);
    return PIXELS_OK;
}

typedef int32_t Decode(Decoder *decoder, const void *request);

static int32_t run(const Jpeg *jpeg, J_COLOR_SPACE colors, Decode *decode, const void *request,
                   int may_be_fast) {
    for (volatile int fast = may_be_fast; fast >= 0; fast--) {
        Decoder decoder = {0};
        volatile int32_t status = PIXELS_DAMAGED;
        decoder.info.err = jpeg_std_error(&decoder.errors);
        decoder.errors.error_exit = fail_damaged;
        decoder.errors.emit_message = fail_if_truncated;
        int failure = setjmp(decoder.failure);
        if (failure == 0) {
            if (start(&decoder, jpeg, colors, fast)) status = decode(&decoder, request);
        } else {
            status = PIXELS_DAMAGED;
        }
        free(decoder.pixels);
        fast_huffman_free(decoder.huffman);
        jpeg_destroy_decompress(&decoder.info);
        if (failure != FAILED_UNUSUAL) return status;
    }
    return PIXELS_DAMAGED;
}

/* The view of a JPEG of the given size, in pixels. */
PIXELS_API int32_t pixels_view_jpeg(const uint8_t *data, int64_t num_bytes, int64_t height,
                                    int64_t width, const View *view, int32_t mirrored,
                                    uint8_t *out) {
    Jpeg jpeg = {data, num_bytes, height, width};
    ViewRequest request = {view, mirrored, out};
    ViewRequests requests = {&request, 1};
    return run(&jpeg, JCS_EXT_RGBX, decode_views, &requests, fast_is_trusted);
}

/* Two views of a JPEG of the given size, which is decoded once: the part that covers both. Their
 * pixels are those of pixels_view_jpeg. */
PIXELS_API int32_t pixels_view_jpeg_twice(const uint8_t *data, int64_t num_bytes, int64_t height,
                                          int64_t width, const View *views, int32_t first_mirrored,
                                          int32_t second_mirrored, uint8_t *first_out,
                                          uint8_t *second_out) {
    Jpeg jpeg = {data, num_bytes, height, width};
    ViewRequest both[2] = {{&views[0], first_mirrored, first_out},
                           {&views[1], second_mirrored, second_out}};
    ViewRequests requests = {both, 2};
    return run(&jpeg, JCS_EXT_RGBX, decode_views, &requests, fast_is_trusted);
}

/* A full JPEG of the given size as RGB [height, width, 3]. */
PIXELS_API int32_t pixels_decode_jpeg(const uint8_t *data, int64_t num_bytes, int64_t height,
                                      int64_t width, uint8_t *out) {
    Jpeg jpeg = {data, num_bytes, height, width};
    return run(&jpeg, JCS_RGB, decode_full, &out, fast_is_trusted);
}

/* The view of raw RGB pixels [height, width, 3]. */
PIXELS_API int32_t pixels_view_raw(const uint8_t *data, int64_t width, const View *view,
                                   int32_t mirrored, uint8_t *out) {
    Extent extent = view_extent(view);
    int64_t num_columns = extent.right - extent.left;
    int64_t num_rows = extent.bottom - extent.top;
    uint8_t *pixels = malloc((size_t)(4 * num_rows * num_columns + READ_PAST_END));
    if (!pixels) return PIXELS_NO_MEMORY;
    uint8_t *to = pixels;
    for (int64_t y = extent.top; y < extent.bottom; y++) {
        const uint8_t *from = data + 3 * (y * width + extent.left);
        for (int64_t x = 0; x < num_columns; x++, from += 3, to += 4) {
            to[0] = from[0];
            to[1] = from[1];
            to[2] = from[2];
        }
    }
    Region region = {pixels, 4 * num_columns, extent.top, extent.left};
    int32_t status = resample(&region, view, mirrored, out);
    free(pixels);
    return status;
}

/* Adds a row of RGBX pixels to the sums of values and of squares, without overflow up to 65,535
 * pixels. */
static void add_up(const uint8_t *row, int64_t width, uint64_t *sums) {
    const __m128i ones = _mm_set1_epi16(1);
    const __m128i interleave =
        _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1);
    __m128i values = _mm_setzero_si128(), squares = _mm_setzero_si128();
    for (int64_t x = 0; x < width; x += 2) {
        __m128i two = _mm_loadl_epi64((const __m128i *)(row + 4 * x));
        two = _mm_shuffle_epi8(two, interleave);
        values = _mm_add_epi32(values, _mm_madd_epi16(two, ones));
        squares = _mm_add_epi32(squares, _mm_madd_epi16(two, two));
    }
    uint32_t of_row[8];
    _mm_storeu_si128((__m128i *)of_row, values);
    _mm_storeu_si128((__m128i *)(of_row + 4), squares);
    for (int channel = 0; channel < 3; channel++) {
        sums[channel] += of_row[channel];
        sums[3 + channel] += of_row[4 + channel];
    }
}

static int32_t decode_sums(Decoder *decoder, const void *request) {
    uint64_t *sums = *(uint64_t *const *)request;
    int64_t width = decoder->info.output_width;
    /* Again where an earlier attempt has ended in the middle. */
    memset(sums, 0, 6 * sizeof *sums);
    /* One more pixel of zeros: pixels are read in pairs. */
    decoder->pixels = calloc((size_t)(4 * (width + 1)), 1);
    if (!decoder->pixels) return PIXELS_NO_MEMORY;
    for (JDIMENSION y = 0; y < decoder->info.output_height; y++) {
        read_rows(&decoder->info, decoder->pixels, 0, 1);
        add_up(decoder->pixels, width, sums);
    }
    return PIXELS_OK;
}

/* Decodes all of a JPEG of the given size and adds up, for red, green and blue, the values and then
 * their squares: sums[0..2] and sums[3..5]. */
PIXELS_API int32_t pixels_measure_jpeg(const uint8_t *data, int64_t num_bytes, int64_t height,
                                       int64_t width, uint64_t *sums) {
    Jpeg jpeg = {data, num_bytes, height, width};
    return run(&jpeg, JCS_EXT_RGBX, decode_sums, &sums, fast_is_trusted);
}

static int32_t decode_nothing(Decoder *decoder, const void *request) {
    (void)request;
    if (fast_huffman_applies(&decoder->info)) return PIXELS_OK;
    uint8_t *row = decoder->pixels = malloc(4 * (size_t)decoder->info.output_width);
    if (!row) return PIXELS_NO_MEMORY;
    read_rows(&decoder->info, row, 0, decoder->info.output_height);
    return PIXELS_OK;
}

/* Whether a JPEG of the given size decodes; decided from the headers for the common kind. */
PIXELS_API int32_t pixels_check_jpeg(const uint8_t *data, int64_t num_bytes, int64_t height,
                                     int64_t width) {
    Jpeg jpeg = {data, num_bytes, height, width};
    return run(&jpeg, JCS_EXT_RGBX, decode_nothing, NULL, 0);
}

static int32_t know_layout(Decoder *decoder, const void *request) {
    (void)request;
    return fast_huffman_knows_layout(&decoder->info) ? PIXELS_OK : PIXELS_DAMAGED;
}

/* Whether the fast Huffman decoder gives of one JPEG what libjpeg's own gives of another, which is
 * the same but in tests; from then on the fast one is used, or not. Both have the given size. */
PIXELS_API int32_t pixels_check_decoder(const uint8_t *fast_data, int64_t num_fast_bytes,
                                        const uint8_t *data, int64_t num_bytes, int64_t height,
                                        int64_t width) {
    size_t size = (size_t)(3 * height * width);
    uint8_t *pixels = calloc(2 * size, 1), *expected = pixels + size;
    Jpeg fast = {fast_data, num_fast_bytes, height, width}, slow = {data, num_bytes, height, width};
    fast_is_trusted = 0;
    if (!pixels) return PIXELS_NO_MEMORY;
    if (run(&fast, JCS_RGB, know_layout, NULL, 0) == PIXELS_OK &&
        run(&fast, JCS_RGB, decode_full, &pixels, 1) == PIXELS_OK &&
        run(&slow, JCS_RGB, decode_full, &expected, 0) == PIXELS_OK)
        fast_is_trusted = !memcmp(pixels, expected, size);
    free(pixels);
    return fast_is_trusted ? PIXELS_OK : PIXELS_DAMAGED;
}

static int32_t describe(Decoder *decoder, const void *request) {
    int64_t *const *size = request;
    const struct jpeg_decompress_struct *info = &decoder->info;
    if (info->num_components != 1 && info->num_components != 3) return PIXELS_DAMAGED;
    for (jpeg_saved_marker_ptr marker = info->marker_list; marker; marker = marker->next) {
        if (marker->data_length < MARKER_NAME_BYTES) continue;
        if (!memcmp(marker->data, "Exif", MARKER_NAME_BYTES)) return PIXELS_DAMAGED;
        /* XMP, whose name is an address, may have the orientation too. */
        if (!memcmp(marker->data, "http", MARKER_NAME_BYTES)) return PIXELS_DAMAGED;
        if (!memcmp(marker->data, "MPF", MARKER_NAME_BYTES)) return PIXELS_DAMAGED;
    }
    (*size)[0] = info->output_height;
    (*size)[1] = info->output_width;
    return decode_nothing(decoder, NULL);
}

/* Whether the bytes are a gray or color JPEG that decodes, without headers that could change how it
 * is shown; sets size to its height and width. */
PIXELS_API int32_t pixels_describe_jpeg(const uint8_t *data, int64_t num_bytes, int64_t *size) {
    Jpeg jpeg = {data, num_bytes, 0, 0};
    return run(&jpeg, JCS_EXT_RGBX, describe, &size, 0);
}
