/* Huffman decoding of baseline JPEGs in place of libjpeg's: one table look-up gives a coefficient's
 * run, size and value together. */

#ifndef HUFFMAN_H
#define HUFFMAN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

typedef struct FastHuffman FastHuffman;

/* Whether the file, after jpeg_start_decompress, is of the common kind: baseline, one scan with a
 * marker at its end, no restart markers. libjpeg makes an image of such a one whatever it holds. */
int fast_huffman_applies(j_decompress_ptr info);

/* Takes over from libjpeg's decoder, where it applies; NULL, and nothing is changed, elsewhere.
 * `on_anomaly` is called, and must not return, where the data is not what it should be: what
 * damaged files mean is left to libjpeg. */
FastHuffman *fast_huffman_install(j_decompress_ptr info, void (*on_anomaly)(j_common_ptr));

void fast_huffman_free(FastHuffman *state);

#endif
