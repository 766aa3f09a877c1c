/* Pixels from stored images, called from compiled code: no Python, no state, thread-safe. */

#ifndef PIXELS_H
#define PIXELS_H

#include <stdint.h>

/* Visible outside the library: functions named pixels_*. */
#define PIXELS_API __attribute__((visibility("default")))

enum { PIXELS_OK = 0, PIXELS_DAMAGED = -1, PIXELS_NO_MEMORY = -2 };

/* The requested part of an image. The box, in source pixels, is resized to resized_height x
 * resized_width; the window, in pixels of the resized box, is returned. */
typedef struct {
    int64_t box_top, box_left, box_height, box_width;
    int64_t resized_height, resized_width;
    int64_t window_top, window_left, window_height, window_width;
} View;

/* Four bytes per pixel: red, green, blue and one that is unused. Rows are `stride` bytes apart,
 * and 16 bytes past the last pixel may be read. */
typedef struct {
    const uint8_t *pixels;
    int64_t stride;
    int64_t top, left; /* position of the first pixel in the source */
} Region;

/* Rows [first, last) and columns of the source that a view reads. */
typedef struct {
    int64_t top, left, bottom, right;
} Extent;

Extent view_extent(const View *view);

/* Antialiased triangle filter, as torchvision's resize with antialias=True and Pillow's BILINEAR.
 * `out` is [window_height, window_width, 3]; flipped horizontally if `mirrored`. */
int32_t resample(const Region *region, const View *view, int mirrored, uint8_t *out);

#endif
