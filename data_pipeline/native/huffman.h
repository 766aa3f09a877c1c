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
 * marker at its end, no restart markers. libjpeg decodes such a file whatever its data is. */
int fast_huffman_applies(j_decompress_ptr info);

/* Whether libjpeg's private structure is laid out as this file supposes, after
 * jpeg_start_decompress: its functions are libjpeg's. */
int fast_huffman_knows_layout(j_decompress_ptr info);

/* Replaces libjpeg's Huffman decoder where it applies; otherwise returns NULL and changes nothing.
 * `on_anomaly` is called, and must not return, if the data is damaged: the caller then decodes the
 * file with libjpeg's own decoder. */
FastHuffman *fast_huffman_install(j_decompress_ptr info, void (*on_anomaly)(j_common_ptr));

void fast_huffman_free(FastHuffman *state);

#endif
